"""Train one stage, SFT or DAPO. First make what it needs: data, demonstrations, an SFT warm start.

    python -m masksearch_jax.train --config=configs/dapo.py --workdir=W
    python -m masksearch_jax.train --config=configs/sft.py --workdir=W --config.sft.steps=300

A run may be killed at any moment. Started again with the same command, it resumes and ends with the same parameters,
bit for bit.
"""

from pathlib import Path

from ml_collections import ConfigDict

from masksearch_jax.runtime import cli


def main(cfg: ConfigDict, workdir: Path) -> None:
    from masksearch_jax.workflows import training  # imported here, so that --help needs no JAX

    training.main(cfg, workdir)


if __name__ == "__main__":
    cli.run_config(main, None)
