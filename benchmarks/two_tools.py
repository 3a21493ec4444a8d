"""Two tools in one episode: searches that show a few words, and visits that show the rest.

    python -m benchmarks.two_tools --workdir=W --iterations=20

The quickstart's policy on the toy encyclopedia, where a search shows the first words of its passage alone
(tools.snippet_words), so that most answers stand where a visit shows them. Trains SFT on demonstrations with both,
then DAPO, and prints one line: recall before and after, and the share of held-out episodes that call search, visit and
both. What W holds already is used.
"""

import json
import sys
from pathlib import Path

from absl import app, flags

from masksearch_jax.configs import quickstart as page
from masksearch_jax.evals import runner
from masksearch_jax.workflows import quickstart

_WORKDIR = flags.DEFINE_string("workdir", None, "The folder of the run.", required=True)
_ITERATIONS = flags.DEFINE_integer("iterations", 20, "Of DAPO.")
_SFT_STEPS = flags.DEFINE_integer("sft_steps", 700, "Optimizer steps of SFT.")
_EPISODES = flags.DEFINE_integer("episodes", 300, "Held-out tasks of one mask.")
_WORDS = flags.DEFINE_integer("snippet_words", 4, "Words that a search shows.")


def config():
    """Return the settings of the quickstart with both tools."""
    cfg = page.get_config()
    cfg.policies = ("sft", "dapo")
    cfg.tools.update({"visit": "article", "snippet_words": _WORDS.value})
    # The tags of visit take seven tokens each.
    cfg.episode.update({"turns": 8, "turn_tokens": 56, "total_tokens": 384, "deadline_steps": 300})
    cfg.synthesize.examples.update({"ramp_1": 4000, "ramp_2": 1000, "ramp_3": 0, "ramp_4": 0})
    cfg.sft.update({"steps": _SFT_STEPS.value, "row_length": 384, "rows": 7, "eval_every": 0})
    cfg.sft.curriculum = ((None, (("ramp_1", 0.8), ("ramp_2", 0.2))),)
    cfg.sft.optimizer.total_steps = _SFT_STEPS.value
    cfg.dapo.update({"iterations": _ITERATIONS.value, "row_lengths": (384,), "eval_every": 0})
    cfg.dapo.update({"curriculum": ((None, (("ramp_1", 0.8), ("ramp_2", 0.2))),), "micro_batches": (4, 8, 12)})
    cfg.dapo.reward.update({"overlong_limit": 144, "overlong_cache": 48})
    cfg.evaluate.episodes.update({"ramp_1": _EPISODES.value, "ramp_2": 0, "ramp_3": 0, "ramp_4": 0, "qa": 0})
    return cfg


def shares(rows: list[runner.Row]) -> dict[str, float]:
    """Return the recall of the episodes, and the shares of them that call each tool and both."""
    called = [{turn["action"] for turn in row.turns if not turn["error"]} for row in rows]
    found = {name: sum(name in one for one in called) / len(rows) for name in ("search", "visit")}
    both = sum({"search", "visit"} <= one for one in called) / len(rows)
    return {"recall": sum(row.recall for row in rows) / len(rows), **found, "both": both}


def main(_) -> None:
    workdir = Path(_WORKDIR.value)
    quickstart.run(config(), workdir)
    scored = {
        policy: {name: round(value, 4) for name, value in shares(rows).items()}
        for policy in ("sft", "dapo")
        if (rows := runner.read_rows(workdir / "evaluate" / policy / "rows.jsonl"))
    }
    print(
        json.dumps({"benchmark": "two_tools", "episodes": _EPISODES.value, "iterations": _ITERATIONS.value, **scored})
    )


if __name__ == "__main__":
    app.run(main, argv=sys.argv)
