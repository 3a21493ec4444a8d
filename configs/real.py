"""Real text, from scratch: RAMP over a corpus of Wikipedia passages, SFT then DAPO.

Command:  python -m masksearch_jax.experiment --config=configs/real.py --config.prepare.dump=2wiki_corpus.json.gz
              --workdir=runs/real
Hardware: two CPU cores.
Expect:   W/report.json, W/report.html and the table within an hour. Of 700 held-out masks recall 0.065 after SFT and
          0.089 after DAPO: docs/experiments.md.

The dump may be a MediaWiki export as well. Only what a second passage states with a name that the masked passage shows
is masked (prepare.elsewhere): in some thousand passages most facts stand once, and the source of a mask is kept from
the search. Dates stand in far more passages than state the fact, so few are masked.
"""

from ml_collections import ConfigDict

from configs.prepare import shares
from masksearch_jax.configs import common, quickstart


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
    config.model.update({
        "layers": 4, "embed": 192, "heads": 3, "kv_heads": 3, "ff": 384, "scan_unroll": 4, "token_shift": 4,
    })  # fmt: skip
    config.search.hits = 2
    config.episode.update({"turn_tokens": 48, "observation_tokens": 144, "total_tokens": 352})
    config.rollout.update({
        "slots": 32, "prompt_lengths": (72, 144), "append_rows": (2, 4, 8), "append_tokens": (48, 144),
    })  # fmt: skip
    # Two thirds of the demonstrations may find their source: to read on from the same words is learned from these. The
    # others are what is asked for; of three masks in five there is none, since the query does not find the answer.
    config.synthesize.styles.update({"name": 0.9, "own": 0.1, "insight": 0.0})
    config.synthesize.update({"evidence": 2, "evidence_match": 0, "retry": 0.0})
    config.synthesize.examples.update({"open": 32_000, "ramp_1": 16_000, "ramp_2": 0, "ramp_3": 0, "ramp_4": 0})
    config.sft.update({"steps": 3200, "rows": 8, "row_length": 448, "eval_every": 1000})
    config.sft.curriculum = ((None, ((-2, 0.65), (1, 0.35))),)
    config.sft.optimizer.total_steps = 3200
    config.dapo.update({
        "iterations": 60, "row_lengths": (448,), "micro_batches": (3, 5, 8), "eval_every": 20,
        "curriculum": ((None, ((1, 1.0),)),), "aggregation": "seq-mean-token-mean",
    })  # fmt: skip
    config.dapo.reward.overlong_limit = 128
    config.dapo.optimizer.learning_rate = config.dapo.optimizer.adam_learning_rate = 3e-4
    config.validation_levels = (1,)
    config.policies = ("untrained", "sft", "dapo")
    config.evaluate.episodes.update({"1": 700, "2": 0, "3": 0, "4": 0, "qa": 0})
    return config
