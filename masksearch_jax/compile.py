"""Compile the programs of a config for a TPU slice, on a machine without TPUs, and say whether they fit in memory.

python -m masksearch_jax.compile --config=configs/dapo.py:qwen2.5-7b --topology=v5p:4x4x4 [--json=FILE]
"""

import json
import sys
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from masksearch_jax.runtime import cli

_TOPOLOGY = flags.DEFINE_string("topology", None, "A slice, such as v5p:4x4x4 or v6e-8; default: the config's.")
_JSON = flags.DEFINE_string("json", None, "A file to write the numbers to.")
_ONLY = flags.DEFINE_string("only", "", "Compile only programs whose name matches this regular expression.")


def main(cfg: ConfigDict, workdir: Path) -> None:
    from masksearch_jax.aot import costs, programs, topologies  # imported here, so that --help needs no JAX

    name = _TOPOLOGY.value or cfg.get("topology")
    if not name:
        raise ValueError("this config names no slice: give --topology=v5p:4x4x4, v6e-8, ..")
    slice_ = topologies.parse(name)
    sizes, reports = programs.compile_stage(cfg, slice_, _ONLY.value, lambda line: print(line, flush=True))
    for stage, hours in costs.chip_hours(cfg, slice_, reports).items():
        print(f"{hours:,.0f} chip-hours: {costs.ASSUMED[stage]}")
    if _JSON.value:
        page = next((a.partition("=")[2] for a in sys.argv if a.startswith("--config=")), "")
        Path(_JSON.value).write_text(json.dumps(programs.summary(cfg, page, slice_, sizes, reports), indent=1))


if __name__ == "__main__":
    cli.run_config(main, None, resumable=False)
