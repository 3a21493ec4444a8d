"""Real text with a policy from scratch: RAMP over a corpus of Wikipedia passages, SFT and then DAPO.

Command:  python -m masksearch_jax.experiment --config=configs/real.py --config.prepare.dump=2wiki_corpus.json.gz
              --workdir=runs/real
Hardware: two CPU cores.
Expect:   W/report.json, W/report.html and the table within an hour. On 700 held-out masks recall is 0.065 after SFT and
          0.089 after DAPO: docs/results/real_text.md.

The dump may also be a MediaWiki export. A span is masked only if a second passage states it together with a name that
the masked passage shows (prepare.corroborated): a corpus of some thousand passages states most facts once, and the
search excludes the source of a mask. A date occurs in many more passages than those that state the fact, so few dates
are masked.
"""

from ml_collections import ConfigDict

from masksearch_jax.configs import common, quickstart
from masksearch_jax.configs.prepare import shares


def get_config(arg: str = "") -> ConfigDict:
    common.check_argument(__file__, arg)
    config = quickstart.get_config()
    config.prepare.dump = ""
    config.prepare.corroborated = True
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
        "slots": 32, "prompt_lengths": (72, 144), "extend_rows": (2, 4, 8), "extend_tokens": (48, 144),
    })  # fmt: skip
    # Two thirds of the demonstrations search with the source allowed; from these the policy learns to read on from the
    # same words. The rest are real RAMP episodes. Three masks in five give none of these, since the query does not find
    # the answer.
    config.synthesize.styles.update({"title": 0.9, "passage": 0.1, "associated": 0.0})
    config.synthesize.update({"evidence": 2, "evidence_match": 0, "retry": 0.0})
    config.synthesize.examples.update({"ramp_1_open": 32_000, "ramp_1": 16_000, "ramp_2": 0, "ramp_3": 0, "ramp_4": 0})
    config.sft.update({"steps": 3200, "rows": 8, "row_length": 448, "eval_every": 1000})
    config.sft.curriculum = ((None, (("ramp_1_open", 0.65), ("ramp_1", 0.35))),)
    config.sft.optimizer.total_steps = 3200
    config.dapo.update({
        "iterations": 60, "row_lengths": (448,), "micro_batches": (3, 5, 8), "eval_every": 20,
        "curriculum": ((None, (("ramp_1", 1.0),)),), "aggregation": "seq-mean-token-mean",
    })  # fmt: skip
    config.dapo.reward.overlong_limit = 128
    config.dapo.optimizer.learning_rate = config.dapo.optimizer.adam_learning_rate = 3e-4
    config.validation_tasks = ("ramp_1",)
    config.policies = ("untrained", "sft", "dapo")
    config.evaluate.episodes.update({"ramp_1": 700, "ramp_2": 0, "ramp_3": 0, "ramp_4": 0, "qa": 0})
    return config
