"""Scores a checkpoint of a run on its held-out split: RAMP by number of masks, questions and benchmarks where there are
any.

Command:  python -m masksearch_jax.evaluate --config=configs/evaluate.py --workdir=W --config.policy=dapo
          python -m masksearch_jax.evaluate --config=configs/evaluate.py:slice --workdir=W
Hardware: two CPU cores; the model, search and episode settings must be those of the run, and so must the argument.
"""

from masksearch_jax.configs import common, recipes


def get_config(arg: str = ""):
    common.check_argument(__file__, arg, "slice", *recipes.RECIPES)
    config = common.line()
    # untrained (or what `start`, `pretrained` hold) | few_shot (that, with worked examples in its prompts) | one_search
    # | sft | sft_more | dapo
    config.policy = "dapo"
    if arg == "slice":
        common.real_text(config)
    elif arg:
        recipes.apply(config, arg)
    return config
