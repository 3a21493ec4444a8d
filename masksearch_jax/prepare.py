"""Make W/data (tasks and search indices) from a dump or from the toy encyclopedia.

python -m masksearch_jax.prepare --config=configs/prepare.py --config.dump=FILE --workdir=W
python -m masksearch_jax.prepare --config=configs/dapo.py --config.prepare.dump=FILE --workdir=W

The second command takes the section `prepare` of a config that trains, so that the data has the settings of the run.
"""

from pathlib import Path

from ml_collections import ConfigDict

from masksearch_jax.runtime import cli


def main(cfg: ConfigDict, workdir: Path) -> None:
    from masksearch_jax.workflows import data_preparation  # imported here, so that --help needs no JAX

    data_preparation.main(cfg, workdir)


if __name__ == "__main__":
    cli.run_config(main, "configs/prepare.py")
