"""One iteration of DAPO, or one step of SFT, by what its time went into: a picture, and a table with FLOPs.

Enters: the rows of one stage. Leaves: a chart of parts on top of each other and a table; nothing without times. Seconds
are means over all rows but the first, whose time includes compilation.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from masksearch_jax.evals.report.sections import Chart, Curve, Table
from masksearch_jax.runtime.types import Json

Rows = Sequence[Mapping[str, Json]]

_REWARDS = "tasks and rewards"  # of seconds/rollout, what the engine does not count
# Part -> its key, in the order of an iteration.
_KEYS = {
    "data": "seconds/data", "reshard": "seconds/reshard", "prefill": "rollout/prefill_s", "extend": "rollout/extend_s",
    "decode": "rollout/decode_s", "search wait": "rollout/search_wait_s", "update in rollout": "rollout/overlap_s",
    "rollout, host": "rollout/host_s", _REWARDS: "", "log-probs": "seconds/logprobs", "update": "seconds/update",
    "step": "seconds/step", "checkpoint, eval": "seconds/since_last",
}  # fmt: skip
_ROLLOUT = tuple(key for key in _KEYS.values() if key.startswith("rollout/"))
# Rows of the table that have FLOPs -> the part of their keys.
_FLOPS = {"rollout": "rollout", "log-probs": "logprobs", "update": "update", "step": "step"}
_LEAST = 0.01  # share of a part that the picture shows by itself
_MOST = 8  # parts in the picture, as many as it has colours


@dataclasses.dataclass(frozen=True)
class Parts:
    """The mean iteration. steps: how many were averaged. seconds: by part. flops, mfu: by row of the table."""

    steps: int
    seconds: dict[str, float]
    flops: dict[str, float]
    mfu: dict[str, float]

    @property
    def whole(self) -> float:
        return sum(self.seconds.values())


def measure(rows: Rows) -> Parts | None:
    """Return the mean iteration of the rows; None if fewer than two rows have times."""
    timed = [row for row in rows if any(name.startswith("seconds/") for name in row)]
    if len(timed) < 2:
        return None
    measured, steps = timed[1:], timed[-1]["step"] - timed[0]["step"]

    def mean(key: str) -> float:
        return sum(row.get(key, 0.0) for row in measured) / steps

    seconds = {part: mean(key) for part, key in _KEYS.items() if key}
    seconds[_REWARDS] = max(0.0, mean("seconds/rollout") - sum(map(mean, _ROLLOUT)))
    flops = {name: mean(f"{part}/flops") for name, part in _FLOPS.items()}
    mfu = {name: sum(row.get(f"{part}/mfu", 0.0) for row in measured) / len(measured) for name, part in _FLOPS.items()}
    return Parts(steps, {part: seconds[part] for part in _KEYS if seconds[part] > 0}, flops, mfu)


def picture(parts: Parts, step: str) -> Chart:
    """Return one bar of the parts in the order in which they happen. step: what a row counts."""
    whole = parts.whole
    largest = sorted(parts.seconds, key=lambda part: -parts.seconds[part])[: _MOST - 1]
    shown = {part: value for part, value in parts.seconds.items() if part in largest and value >= _LEAST * whole}
    if (rest := whole - sum(shown.values())) > 0:
        shown["other"] = rest
    bars = (Curve(f"{part}, {value / whole:.0%}", (0.0,), (value,)) for part, value in shown.items())
    return Chart(f"One {step}", f"wall time (s), mean of {parts.steps:,}", "", tuple(bars), kind="parts")


def table(parts: Parts, step: str) -> Table:
    """Return seconds and shares of all parts, with model FLOPs and their share of the peak where they are known."""
    rollout = sum(parts.seconds.get(part, 0.0) for part, key in _KEYS.items() if key in _ROLLOUT or part == _REWARDS)
    seconds = parts.seconds | ({"rollout": rollout} if rollout else {})
    rows = []
    for name, spent in seconds.items():
        flops, mfu = parts.flops.get(name, 0.0), parts.mfu.get(name, 0.0)
        rate = f"{flops / spent / 1e9:,.1f}" if flops and spent else ""
        rows.append((
            "rollout, all of it" if name == "rollout" else name, f"{spent:.4g}", f"{spent / parts.whole:.1%}", rate,
            f"{mfu:.1%}" if mfu else "",
        ))  # fmt: skip
    head = ("part", "seconds", "share", "model GFLOP/s", "MFU")
    note = f"Mean of {parts.steps:,}; the first row of the log is left out, because it compiles."
    return Table(f"One {step} by part", head, tuple(rows), note, folded=True)
