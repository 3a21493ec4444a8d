"""Score a checkpoint on held-out RAMP tasks (per number of masks), on held-out questions and on benchmarks.

python -m masksearch_jax.evaluate --config=configs/evaluate.py --workdir=W --config.policy=dapo
"""

from masksearch_jax.runtime import cli
from masksearch_jax.workflows import evaluation

if __name__ == "__main__":
    cli.start(evaluation.main, "configs/evaluate.py")
