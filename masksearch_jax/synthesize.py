"""Write demonstrations for SFT: the accepted trajectories of a teacher.

python -m masksearch_jax.synthesize --config=configs/synthesize.py --workdir=W

python -m masksearch_jax.synthesize --config=configs/synthesize.py:agents --config.llm.url=URL
    --config.llm.model=NAME --workdir=W
"""

from pathlib import Path

from ml_collections import ConfigDict

from masksearch_jax.runtime import cli


def main(cfg: ConfigDict, workdir: Path) -> None:
    from masksearch_jax.workflows import synthesis_stage  # imported here, so that --help needs no JAX

    synthesis_stage.main(cfg, workdir)


if __name__ == "__main__":
    cli.run_config(main, "configs/synthesize.py")
