"""Write demonstrations for SFT: the accepted trajectories of a teacher.

python -m masksearch_jax.synthesize --config=configs/synthesize.py --workdir=W

python -m masksearch_jax.synthesize --config=configs/synthesize.py:agents --config.llm.url=URL
    --config.llm.model=NAME --workdir=W
"""

from masksearch_jax.runtime import cli
from masksearch_jax.workflows import synthesis_stage

if __name__ == "__main__":
    cli.start(synthesis_stage.main, "configs/synthesize.py")
