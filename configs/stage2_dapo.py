"""Stage II by RL: DAPO on questions that rest on two articles, from a policy of stage I.

Command:  python -m masksearch_jax.train --config=configs/stage2_dapo.py --config.start=runs/dapo/dapo --workdir=W
          python -m masksearch_jax.train --config=configs/stage2_dapo.py:dump --config.prepare.dump=FILE
              --config.prepare.questions=FILE --workdir=W                      any form of docs/data_formats.md
          python -m masksearch_jax.evaluate --config=configs/evaluate.py --workdir=W --config.policy=dapo
          python -m masksearch_jax.compile --config=configs/stage2_dapo.py:qwen2.5-7b    a recipe of configs/recipes.py
Hardware: two CPU cores; a recipe needs the TPU slice that it names.
          The run first makes what W lacks (toy encyclopedia with its questions, index).
Expect:   see docs/guides/benchmarks.md.

start is the folder of a finished stage: sft or dapo of stage I, or W/sft of stage II in the same W. Without it, this
run makes its own warm start by SFT on questions (configs/stage2_sft.py).
"""

from masksearch_jax.configs import common, dapo, recipes, stage2_sft

VARIANTS = ("dump", *recipes.RECIPES)


def get_config(arg: str = ""):
    common.check_argument(__file__, arg, *VARIANTS)
    config = dapo.get_config(arg)
    stage2_sft.questions(config)
    config.dapo.curriculum = ((None, (("qa", 1.0),)),)
    return config
