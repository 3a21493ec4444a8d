"""Training curves: which numbers of metrics.jsonl are drawn together, and on which axes.

Enters: the rows of one stage, or of several runs of a stage to compare. Leaves: charts, and a table of all numbers that
no chart shows. Only numbers that the rows hold are drawn.
"""

import collections
import dataclasses
from collections.abc import Mapping, Sequence

from masksearch_jax.evals import intervals
from masksearch_jax.evals.report.sections import Chart, Curve, Table
from masksearch_jax.evals.report.task_labels import task_label
from masksearch_jax.runtime.types import Json

Rows = Sequence[Mapping[str, Json]]
Series = dict[str, list[tuple[float, float]]]

_POINTS = 300  # most points of a curve; longer curves are shown as means of neighbouring points


@dataclasses.dataclass(frozen=True)
class _Spec:
    """One chart.

    keys: names of numbers; a '*' stands for any text without '/'. main: the one key that is drawn when runs are
    compared. kind, log: as in `sections.Chart`. if_it_moves: no chart if all its numbers are constant; the table of
    other numbers shows them instead.
    """

    title: str
    unit: str
    keys: tuple[str, ...]
    main: str = ""
    kind: str = "line"
    log: bool = False
    if_it_moves: bool = False


_SPECS = (
    _Spec("Loss", "mean of a token", ("loss",), "loss"),
    _Spec("Reward and its parts", "mean of an episode", ("reward", "reward_*"), "reward"),
    _Spec("Answer reward by number of masks", "mean of an episode", ("reward_answer/*",), "reward_answer"),
    _Spec("Recall on validation", "share of gold tokens", ("eval/*/recall",), "eval/ramp_1/recall"),
    _Spec("Valid format on validation", "share of episodes", ("eval/*/format",)),
    _Spec("Answer among the hits on validation", "share of masks", ("eval/*/hit",)),
    _Spec("Searches on validation", "searches of an episode", ("eval/*/searches",), "eval/ramp_1/searches"),
    _Spec("Response length", "tokens of an episode", ("generated_tokens",), "generated_tokens"),
    _Spec("Searches", "searches of an episode", ("searches",), "searches"),
    _Spec("How episodes end", "share of episodes", ("stop/*",)),
    _Spec("Entropy of the policy", "nats a token", ("entropy",), "entropy"),
    _Spec("Kept groups", "share of groups", ("kept_groups",), "kept_groups"),
    _Spec("Dropped groups", "groups of an iteration", ("dropped_groups",)),
    _Spec("Generations for a batch", "rollout batches", ("generations",), if_it_moves=True),
    _Spec("Clipped tokens", "share of tokens", ("clip_high", "clip_low", "dual_clip")),
    _Spec("Policy before and after its update", "approximate KL (nats)", ("approx_kl",)),
    _Spec("Norm of the gradient", "before clipping", ("grad_norm",)),
    _Spec(
        "Sampler against trainer",
        "difference of a token",
        ("sampler_prob_diff", "sampler_abs_diff", "sampler_max_diff", "1 - correlation"),
        log=True,
    ),
    _Spec("Staleness", "versions that a token is behind", ("staleness",), if_it_moves=True),
    _Spec("Speed", "tokens a second", ("tokens_per_s", "rollout tokens/s")),
    _Spec("Model FLOPs utilisation", "share of the peak", ("mfu", "*/mfu")),
    _Spec("Model FLOPs", "GFLOP/s", ("GFLOP/s",)),
    _Spec("Peak memory", "GB since the start", ("host memory", "device memory")),
    _Spec("Compiled programs", "programs since the row before", ("compile/programs",)),
    _Spec("Seconds by part", "wall time (s)", ("seconds/*",), kind="stack"),
    _Spec("Shares by part", "share of wall time", ("share/*",), kind="stack"),
    _Spec("Shares of the rollout", "share of wall time", ("rollout share/*",), kind="stack"),
    _Spec("Search latency", "milliseconds", ("search/latency_p50_ms", "search/latency_p99_ms"), log=True),
    _Spec("Queries answered by the cache", "share since the start", ("cache share",)),
    _Spec("Alarms", "1 while it is on", ("alarm/*",)),
    _Spec("Returns to a good checkpoint", "so far", ("rollbacks",), if_it_moves=True),
    _Spec("Learning phase", "phase of the curriculum", ("phase",), if_it_moves=True),
)  # fmt: skip

_LABELS = {
    "reward_format": "format", "reward_answer": "answer", "reward_length": "length", "reward": "all",
    "clip_high": "from above", "clip_low": "from below", "dual_clip": "dual clip",
    "sampler_prob_diff": "mean, probability", "sampler_abs_diff": "mean, log-prob", "sampler_max_diff": "largest",
    "rollout tokens/s": "rollout", "tokens_per_s": "whole iteration", "mfu": "whole iteration",
    "rollout/mfu": "rollout", "logprobs/mfu": "log-probs", "update/mfu": "update", "step/mfu": "step",
    "seconds/since_last": "checkpoint, eval", "share/since_last": "checkpoint, eval", "seconds/logprobs": "log-probs",
    "share/logprobs": "log-probs", "search/latency_p50_ms": "median", "search/latency_p99_ms": "99 %",
}  # fmt: skip
# Titles of charts that compare runs, which show the main curve alone.
_COMPARED = {
    "reward": "Reward", "reward_answer": "Answer reward", "eval/ramp_1/recall": "Recall on validation, 1 mask",
    "eval/ramp_1/searches": "Searches on validation, 1 mask",
}  # fmt: skip
_TIMES = ("data", "step", "reshard", "rollout", "logprobs", "update", "since_last")
_ROLLOUT_TIMES = ("prefill_s", "extend_s", "decode_s", "search_wait_s", "host_s", "overlap_s")


def series(rows: Rows) -> Series:
    """Return {name: [(step, value), ..]} of every number in the rows, and of shares and speeds derived from them."""
    found: Series = collections.defaultdict(list)
    for row in rows:
        for name, value in {**row, **_derived(row)}.items():
            if name not in ("step", "time") and isinstance(value, int | float) and not isinstance(value, bool):
                found[name].append((float(row["step"]), float(value)))
    return dict(found)


def _derived(row: Mapping[str, Json]) -> dict[str, float]:
    found: dict[str, float] = {}
    times = {name: row[f"seconds/{name}"] for name in _TIMES if f"seconds/{name}" in row}
    whole = sum(times.values())
    if whole > 0:
        found |= {f"share/{name}": seconds / whole for name, seconds in times.items()}
    rollout, tokens = row.get("rollout/seconds"), row.get("rollout/tokens")
    if rollout:
        parts = {name: row[f"rollout/{name}"] for name in _ROLLOUT_TIMES if f"rollout/{name}" in row}
        found |= {f"rollout share/{name.removesuffix('_s')}": part / rollout for name, part in parts.items()}
    if rollout and tokens:
        found["rollout tokens/s"] = tokens / rollout
    if "flops_per_s" in row:
        found["GFLOP/s"] = row["flops_per_s"] / 1e9
    for name in ("host", "device"):
        if f"memory/{name}_peak_bytes" in row:
            found[f"{name} memory"] = row[f"memory/{name}_peak_bytes"] / 1e9
    if row.get("search/queries"):
        found["cache share"] = row.get("search/cache_hits", 0) / row["search/queries"]
    if isinstance(row.get("sampler_correlation"), float):
        found["1 - correlation"] = 1.0 - row["sampler_correlation"]
    return found


def stage_charts(rows: Rows, step: str = "step") -> tuple[Chart, ...]:
    """Return the charts of one stage. step: what the x axis counts."""
    found, charts = series(rows), []
    for spec in _SPECS:
        curves = [_curve(_label(key), found[key], spec.log) for key in _shown(spec, found)]
        if curves:
            charts.append(Chart(spec.title, step, spec.unit, tuple(curves), spec.kind, log=spec.log))
    return tuple(charts)


def compared(runs: Mapping[str, Sequence[Rows]], step: str = "step") -> tuple[Chart, ...]:
    """Return the main charts with a curve for each name.

    A curve is the mean over the runs (seeds) of that name at the steps that all of them have. If there are several, it
    has a 95 % interval.
    """
    found, charts = {name: [series(rows) for rows in of_seeds] for name, of_seeds in runs.items()}, []
    for spec in _SPECS:
        curves = []
        for name, of_seeds in found.items():
            points = [dict(one[spec.main]) for one in of_seeds if spec.main in one]
            steps = sorted(set.intersection(*map(set, points))) if points else []
            if len(steps) > 1:
                means = [intervals.mean([one[x] for one in points]) for x in steps]
                curve = Curve(
                    name, tuple(steps), tuple(m["mean"] for m in means), tuple(m["half_width"] for m in means)
                )
                curves.append(_thinned(curve))
        if curves:
            charts.append(Chart(_COMPARED.get(spec.main, spec.title), step, spec.unit, tuple(curves)))
    return tuple(charts)


def other_numbers(rows: Rows) -> Table | None:
    """Return a table with the first and last value of every number that no chart shows; None if there is none.

    Numbers that are always 0 are left out.
    """
    found = series(rows)
    drawn = {key for spec in _SPECS for key in _shown(spec, found)}
    cells = [
        (key, f"{values[0][1]:.6g}", f"{values[-1][1]:.6g}")
        for key, values in found.items()
        if key not in drawn and any(value for _, value in values)
    ]
    return Table("Other numbers", ("name", "first", "last"), tuple(cells), folded=True) if cells else None


def _shown(spec: _Spec, found: Series) -> list[str]:
    """Return the names that a chart draws.

    Left out are numbers that are always 0, charts of single points, and parts of a stack that are shorter than its
    longest part.
    """
    keys = dict.fromkeys(key for pattern in spec.keys for key in _matching(pattern, found))
    kept = [key for key in keys if any(y > 0 if spec.log else y for _, y in found[key])]
    longest = max((len(found[key]) for key in kept), default=0)
    if spec.kind == "stack":
        kept = [key for key in kept if len(found[key]) == longest]
    if spec.if_it_moves and all(len({y for _, y in found[key]}) == 1 for key in kept):
        return []
    return kept if longest > 1 else []


def _matching(pattern: str, found: Series) -> list[str]:
    before, star, after = pattern.partition("*")
    if not star:
        return [pattern] if pattern in found else []

    def matches(key: str) -> bool:
        middle = key[len(before) : len(key) - len(after)]
        return key.startswith(before) and key.endswith(after) and bool(middle) and "/" not in middle

    return [key for key in found if matches(key)]


def _label(key: str) -> str:
    if key in _LABELS:
        return _LABELS[key]
    parts = key.split("/")
    if parts[0] == "eval" and len(parts) == 3:
        return task_label(parts[1])
    return task_label(parts[-1]) if parts[0] == "reward_answer" else parts[-1].replace("_", " ")


def _curve(label: str, points: Sequence[tuple[float, float]], log: bool) -> Curve:
    kept = [(x, y) for x, y in points if y > 0 or not log]
    return _thinned(Curve(label, tuple(x for x, _ in kept), tuple(y for _, y in kept)))


def _thinned(curve: Curve) -> Curve:
    """Return the curve with at most _POINTS points, which are means of neighbouring ones."""
    block = -(-len(curve.x) // _POINTS)
    if block == 1:
        return curve
    starts = range(0, len(curve.x), block)

    def means(values: Sequence[float]) -> tuple[float, ...]:
        return tuple(sum(part) / len(part) for part in (values[at : at + block] for at in starts))

    def known_means(values: Sequence[float | None]) -> tuple[float | None, ...]:
        parts = [[v for v in values[at : at + block] if v is not None] for at in starts]
        return tuple(sum(part) / len(part) if part else None for part in parts)

    widths = known_means(curve.half_width) if curve.half_width else None
    return Curve(curve.label, means(curve.x), means(curve.y), widths)
