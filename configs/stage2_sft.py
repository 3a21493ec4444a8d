"""Stage II by SFT: a policy of stage I learns to answer questions over two articles, from demonstrations.

Command:  python -m masksearch_jax.train --config=configs/stage2_sft.py --config.start=runs/dapo/dapo --workdir=W
          python -m masksearch_jax.train --config=configs/stage2_sft.py:slice --config.prepare.dump=FILE
              --config.prepare.questions=FILE --workdir=W                      HotpotQA's format, over its own articles
          python -m masksearch_jax.compile --config=configs/stage2_sft.py:qwen2.5-7b     a recipe of configs/recipes.py
Hardware: two CPU cores; a recipe needs the TPU slice that it names.
          What W lacks is made first (toy encyclopedia with its questions, index, demonstrations).
Expect:   see README, "Stage II: questions".

start is the folder of a finished stage: W/sft or W/dapo of stage I, whose tokenizer W must have (the same prepare
settings give it, or W/data as a link to that of stage I). Without it, training starts from `pretrained`, or afresh.
"""

from masksearch_jax.configs import common, recipes, sft


def get_config(arg: str = ""):
    common.check_argument(__file__, arg, "slice", *recipes.RECIPES)
    config = sft.get_config(arg)
    questions(config)
    if not arg:
        config.sft.update({"steps": 400, "eval_every": 200})
        config.sft.optimizer.update({"total_steps": 400})
    return config


def questions(config) -> None:
    """Turns a page of stage I to questions: teacher, data, validation. SFT takes them in one phase."""
    config.synthesize.examples.update({"ramp_1": 0, "ramp_2": 0, "ramp_3": 0, "ramp_4": 0, "qa": 10_000})
    config.synthesize.probe_tasks = 0
    config.validation_levels = (0,)  # questions, as everywhere in a curriculum
    config.sft.curriculum = ((None, ((0, 1.0),)),)
