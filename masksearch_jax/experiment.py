"""Run a whole workflow of stages from one config. After a kill, the same command resumes it.

    python -m masksearch_jax.experiment --config=configs/quickstart.py --workdir=W        a dump to a before/after table
    python -m masksearch_jax.experiment --config=configs/language_model.py --workdir=W    the same for a published model
    python -m masksearch_jax.experiment --config=configs/evolve.py --workdir=W            self-evolving distillation
    python -m masksearch_jax.experiment --config=configs/table2.py --workdir=W            the methods of the paper's
    Table 2

At the end it writes W/report.html, which shows all results (masksearch_jax.report).
"""

from pathlib import Path

from ml_collections import ConfigDict

from masksearch_jax.runtime import cli


def main(cfg: ConfigDict, workdir: Path) -> None:
    from masksearch_jax.workflows import dispatch  # imported here, so that --help needs no JAX

    dispatch.run(cfg, workdir)


if __name__ == "__main__":
    cli.run_config(main, "configs/quickstart.py")
