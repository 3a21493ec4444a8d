"""Score a checkpoint of a run on its held-out split: RAMP tasks by number of masks, and questions and benchmarks if W
has any.

Command:  python -m masksearch_jax.evaluate --config=configs/evaluate.py --workdir=W --config.policy=dapo
          python -m masksearch_jax.evaluate --config=configs/evaluate.py:dump --workdir=W
          python -m masksearch_jax.evaluate --config=configs/evaluate.py --workdir=W --name=mine
              --config.benchmarks.custom=FILE --config.evaluate.samples=8     questions of your own, docs/extending.md
Hardware: two CPU cores. The model, search and episode settings and the argument must be those of the run.
"""

from masksearch_jax.configs import common, recipes

VARIANTS = ("dump", *recipes.RECIPES)


def get_config(arg: str = ""):
    common.check_argument(__file__, arg, *VARIANTS)
    config = common.base_config()
    # untrained (fresh parameters, or those of `start` or `pretrained`) | few_shot (untrained, with worked examples in
    # the prompts) | rag (untrained, after one search that a rule writes) | one_search (SFT, after one such search) |
    # sft | sft_more | dapo
    config.policy = "dapo"
    if arg == "dump":
        common.real_text(config)
    elif arg:
        recipes.apply(config, arg)
    return config
