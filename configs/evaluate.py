"""Scores a checkpoint of a run on its held-out split.

Command:  python -m masksearch_jax.evaluate --config=configs/evaluate.py --workdir=W --config.policy=dapo
Hardware: two CPU cores; the model, search and episode settings must be those of the run.
"""

from configs import common


def get_config(arg: str = ""):
    common.check_argument(__file__, arg)
    config = common.line()
    config.policy = "dapo"  # untrained | one_search | sft | sft_more | dapo
    return config
