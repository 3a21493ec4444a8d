"""Real text, from scratch: RAMP over a corpus of Wikipedia passages, SFT then DAPO.

Command:  python -m masksearch_jax.experiment --config=configs/real.py --config.prepare.dump=2wiki_corpus.json.gz
              --workdir=runs/real
Hardware: two CPU cores.
Expect:   W/report.json, W/report.html and the table. Made for an hour, and not run to its end as it stands; an earlier
          setting learned to ask and hardly to read: docs/experiments.md.

The dump may be a MediaWiki export as well. Only what a second passage states with a name that the masked passage shows
is masked (prepare.elsewhere): in some thousand passages most facts stand once, and the source of a mask is kept from
the search. Dates stand in far more passages than state the fact, so few are masked.
"""

from ml_collections import ConfigDict

from configs import common, quickstart
from configs.prepare import shares


def get_config(arg: str = "") -> ConfigDict:
    common.check_argument(__file__, arg)
    config = quickstart.get_config()
    config.prepare.dump = ""
    config.prepare.elsewhere = True
    config.prepare.shares = shares(0.8, 0.05, 0.15)
    config.prepare.augment.parts = True
    config.prepare.passages.update({"words": 40, "minimum": 15})
    config.prepare.tokenizer.vocab_size = 8192
    config.prepare.tasks.titles = True
    config.prepare.tasks.span_weights.update({"date": 0.1, "number": 0.1})
    config.prepare.tasks.epochs = 8
    config.prepare.toy_benchmarks = 0
    config.prepare.lookups = True
    config.model.update({"layers": 3, "embed": 128, "heads": 2, "kv_heads": 2, "ff": 256, "scan_unroll": 3})
    config.search.hits = 2
    config.episode.update({"turn_tokens": 48, "observation_tokens": 144, "total_tokens": 352})
    config.rollout.update({
        "slots": 32, "prompt_lengths": (72, 144), "append_rows": (2, 4, 8), "append_tokens": (48, 144),
    })  # fmt: skip
    config.synthesize.styles.update({"name": 0.3, "own": 0.65, "insight": 0.05})
    config.synthesize.update({"evidence": 3, "evidence_match": 1})
    config.synthesize.examples.update({"lookup": 16_000, "ramp_1": 12000, "ramp_2": 1500, "ramp_3": 0, "ramp_4": 0})
    config.sft.update({"steps": 3000, "rows": 10, "row_length": 352, "eval_every": 1000})
    config.sft.curriculum = ((15_000, ((-1, 0.5), (1, 0.5))), (None, ((-1, 0.25), (1, 0.7), (2, 0.05))))
    config.sft.optimizer.total_steps = 3000
    config.dapo.update({
        "iterations": 50, "row_lengths": (352,), "micro_batches": (3, 5, 8), "eval_every": 0,
        "curriculum": ((None, ((1, 0.9), (2, 0.1))),),
    })  # fmt: skip
    config.dapo.reward.overlong_limit = 128
    config.dapo.optimizer.learning_rate = config.dapo.optimizer.adam_learning_rate = 3e-4
    config.validation_levels = (1,)
    config.policies = ("untrained", "sft", "dapo")
    config.evaluate.episodes.update({"1": 700, "2": 200, "3": 0, "4": 0, "qa": 0})
    return config
