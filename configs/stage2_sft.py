"""Stage II by SFT: a policy of stage I learns from demonstrations to answer questions that rest on two articles.

Command:  python -m masksearch_jax.train --config=configs/stage2_sft.py --config.start=runs/dapo/dapo --workdir=W
          python -m masksearch_jax.train --config=configs/stage2_sft.py:dump --config.prepare.dump=FILE
              --config.prepare.questions=FILE --workdir=W                      any form of docs/data_formats.md
          python -m masksearch_jax.compile --config=configs/stage2_sft.py:qwen2.5-7b     a recipe of configs/recipes.py
Hardware: two CPU cores; a recipe needs the TPU slice that it names.
          The run first makes what W lacks (toy encyclopedia with its questions, index, demonstrations).
Expect:   see docs/guides/benchmarks.md.

start is the folder of a finished stage: W/sft or W/dapo of stage I. This W must have the same tokenizer, either by the
same prepare settings or because W/data is a link to that of stage I. Without `start`, training starts from `pretrained`
or from fresh parameters.
"""

from masksearch_jax.configs import common, recipes, sft

VARIANTS = ("dump", *recipes.RECIPES)


def get_config(arg: str = ""):
    common.check_argument(__file__, arg, *VARIANTS)
    config = sft.get_config(arg)
    questions(config)
    if not arg:
        config.sft.update({"steps": 400, "eval_every": 200})
        config.sft.optimizer.update({"total_steps": 400})
    return config


def questions(config) -> None:
    """Change a stage I config to questions: teacher, data and validation. SFT trains on them in one phase."""
    config.synthesize.examples.update({"ramp_1": 0, "ramp_2": 0, "ramp_3": 0, "ramp_4": 0, "qa": 10_000})
    config.synthesize.probe_tasks = 0
    config.validation_tasks = ("qa",)
    config.sft.curriculum = ((None, (("qa", 1.0),)),)
