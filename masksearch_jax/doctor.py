"""Check whether a run can start here. For each failed check print what to do next, and exit with status 1.

python -m masksearch_jax.doctor
python -m masksearch_jax.doctor --config=configs/dapo.py --workdir=W [--devices=16] [--config.mesh.fsdp=4]
"""

import sys
from pathlib import Path

from absl import app, flags
from ml_collections import config_flags

from masksearch_jax.runtime import cli


def main() -> None:
    config = config_flags.DEFINE_config_file("config", None, "The config that is to run.", lock_config=True)
    workdir = flags.DEFINE_string("workdir", None, "The folder that it is to run in.")
    devices = flags.DEFINE_integer("devices", 0, "How many devices there should be in all; 0: any number.", 0)
    seconds = flags.DEFINE_integer("seconds", 300, "How long the devices may take to answer.", 1)

    def call(argv: list[str]) -> None:
        if len(argv) > 1:
            raise app.UsageError(f"unexpected arguments {argv[1:]}")
        from masksearch_jax.workflows import diagnosis  # imported here, so that --help needs no JAX

        folder = Path(workdir.value) if workdir.value else None
        checks = diagnosis.run(diagnosis.Wanted(config.value, folder, devices.value, seconds.value))
        diagnosis.print_table(checks)
        sys.exit(1 if any(check.ok is False for check in checks) else 0)

    cli.run(call, takes_config=True)


if __name__ == "__main__":
    main()
