"""Show where the time of a DAPO iteration goes, from the metrics of a run. Prints one JSON line.

    python -m masksearch_jax.train --config=configs/dapo.py --workdir=W
    python -m benchmarks.dapo --workdir=W

Shares are of the whole time of an iteration, with what follows it (checkpoint, evaluation). They are medians over the
iterations of the run but the first, which compiles the update, and the last, for which no row says what followed.
"""

import json
import statistics
import sys
from pathlib import Path

from absl import app, flags

from masksearch_jax.runtime import metrics

_WORKDIR = flags.DEFINE_string("workdir", None, "Of the run.", required=True)

_ROLLOUT = ("prefill_s", "extend_s", "decode_s", "search_wait_s", "host_s", "overlap_s")
_OTHERS = ("reshard", "logprobs", "update")


def shares(rows: list[dict[str, float]]) -> dict[str, float]:
    """Return the median share of every part, and the median seconds of an iteration, from the rows of iterations.

    The time of what follows an iteration is in the next row.
    """
    found = []
    for row, following in zip(rows[1:], rows[2:], strict=False):
        parts = {name.removesuffix("_s"): row[f"rollout/{name}"] for name in _ROLLOUT}
        parts["rewards_and_tasks"] = row["seconds/rollout"] - sum(parts.values())
        parts |= {name: row[f"seconds/{name}"] for name in _OTHERS}
        parts["checkpoint_and_evaluation"] = following["seconds/since_last"]
        parts["seconds"] = sum(parts.values())
        found.append({name: value if name == "seconds" else value / parts["seconds"] for name, value in parts.items()})
    return {name: statistics.median(one[name] for one in found) for name in found[0]}


def main(_) -> None:
    path = Path(_WORKDIR.value) / "dapo" / "metrics.jsonl"
    rows = [row for row in metrics.read_rows(path) if "seconds/reshard" in row]
    if len(rows) < 3:
        raise SystemExit(f"{path} has {len(rows)} iterations with their times; 3 are needed")
    measured = {name: round(value, 4) for name, value in shares(rows).items()}
    tokens = statistics.median(row["rollout/tokens"] / row["rollout/seconds"] for row in rows[1:])
    print(json.dumps({"benchmark": "dapo", "iterations": len(rows), "rollout_tokens_per_s": round(tokens), **measured}))


if __name__ == "__main__":
    app.run(main, argv=sys.argv)
