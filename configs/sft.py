"""Stage I by SFT: a tiny policy learns from demonstrations to plan, search and answer.

Command:  python -m masksearch_jax.train --config=configs/sft.py --workdir=runs/sft
          python -m masksearch_jax.train --config=configs/sft.py:dump --config.prepare.dump=FILE --workdir=W
          python -m masksearch_jax.compile --config=configs/sft.py:qwen2.5-7b      a recipe of configs/recipes.py
Hardware: two CPU cores; a recipe needs the TPU slice that it names.
          The run first makes what W lacks (toy encyclopedia, tasks, index, demonstrations).
Expect:   see docs/results/quickstart.md.
"""

from masksearch_jax.configs import common, recipes

VARIANTS = ("dump", *recipes.RECIPES)


def get_config(arg: str = ""):
    common.check_argument(__file__, arg, *VARIANTS)
    config = common.base_config()
    config.stage = "sft"  # what train runs: sft | dapo
    config.sft = common.sft()
    common.published_defaults(config, "sft", 1e-5)
    if arg == "dump":
        common.real_text(config)
    elif arg:
        recipes.apply(config, arg)
    return config
