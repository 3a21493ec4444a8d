"""Score a checkpoint on held-out RAMP tasks (per number of masks), on held-out questions and on benchmarks.

python -m masksearch_jax.evaluate --config=configs/evaluate.py --workdir=W --config.policy=dapo
python -m masksearch_jax.evaluate --config=configs/evaluate.py --workdir=W --name=mine --config.benchmarks.custom=FILE
"""

from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from masksearch_jax.runtime import cli

_NAME = flags.DEFINE_string(
    "name", "", "Folder in W/evaluate, never replaced by another evaluation; default the policy, whose folder may be."
)


def main(cfg: ConfigDict, workdir: Path) -> None:
    from masksearch_jax.workflows import evaluation  # imported here, so that --help needs no JAX

    evaluation.main(cfg, workdir, _NAME.value)


if __name__ == "__main__":
    cli.run_config(main, "configs/evaluate.py")
