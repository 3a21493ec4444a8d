"""Real text, from scratch: RAMP over a corpus of Wikipedia passages, SFT then DAPO.

Command:  python -m masksearch_jax.experiment --config=configs/real.py --config.prepare.dump=2wiki_corpus.json.gz
              --workdir=runs/real
Hardware: two CPU cores.
Expect:   W/report.json, W/report.html and the table. Made for an hour; at this size it has not learned yet, see
          docs/experiments.md.

The dump may be a MediaWiki export as well. Only what a second passage states is masked (prepare.elsewhere): in some
thousand passages most facts stand once, and the source of a mask is kept from the search. Dates stand in far more
passages than state the fact, so few are masked.
"""

from ml_collections import ConfigDict

from configs import common, quickstart


def get_config(arg: str = "") -> ConfigDict:
    common.check_argument(__file__, arg)
    config = quickstart.get_config()
    config.prepare.dump = ""
    config.prepare.elsewhere = True
    config.prepare.augment.parts = True
    config.prepare.passages.update({"words": 60, "minimum": 15})
    config.prepare.tasks.span_weights.update({"date": 0.1, "number": 0.1})
    config.prepare.tasks.epochs = 8
    config.prepare.toy_benchmarks = 0
    config.model.update({"layers": 4, "embed": 256, "heads": 4, "kv_heads": 4, "ff": 512, "scan_unroll": 4})
    config.search.hits = 3
    config.episode.update({"turn_tokens": 48, "observation_tokens": 288, "total_tokens": 768})
    config.rollout.update({
        "slots": 32, "prompt_lengths": (96, 192), "append_rows": (2, 4, 8), "append_tokens": (48, 288),
    })  # fmt: skip
    config.synthesize.styles.update({"name": 0.3, "own": 0.65, "insight": 0.05})
    config.synthesize.examples.update({"ramp_1": 6000, "ramp_2": 400, "ramp_3": 0, "ramp_4": 0})
    config.sft.update({"steps": 1500, "rows": 4, "row_length": 768, "eval_every": 750})
    config.sft.curriculum = ((6000, ((1, 1.0),)), (None, ((1, 0.8), (2, 0.2))))
    config.sft.optimizer.total_steps = 1500
    config.dapo.update({
        "iterations": 20, "row_lengths": (768,), "micro_batches": (3, 5, 8), "eval_every": 0,
        "curriculum": ((None, ((1, 0.9), (2, 0.1))),),
    })  # fmt: skip
    config.dapo.optimizer.learning_rate = config.dapo.optimizer.adam_learning_rate = 3e-4
    config.validation_levels = (1,)
    config.policies = ("untrained", "sft", "dapo")
    config.evaluate.episodes.update({"1": 1000, "2": 200, "3": 0, "4": 0, "qa": 0})
    return config
