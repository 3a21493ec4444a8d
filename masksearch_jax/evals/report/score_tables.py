"""Tables and charts of the held-out scores of policies.

Enters: the folder that `masksearch_jax.evaluate` wrote for each policy. Standard errors are over episodes, computed
from the rows.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from masksearch_jax.data.records import masks_of
from masksearch_jax.evals import runner
from masksearch_jax.evals.report import summary_table
from masksearch_jax.evals.report.run_files import json_object
from masksearch_jax.evals.report.sections import Chart, Curve, Table
from masksearch_jax.evals.report.task_labels import task_label
from masksearch_jax.evals.runner import Row
from masksearch_jax.runtime.types import Json

_SCORES = (("recall", 3), ("em", 3), ("f1", 3), ("format", 3), ("hit", 3), ("searches", 2), ("tokens", 1))
_TITLES = {"em": "EM", "f1": "F1"}


@dataclasses.dataclass(frozen=True)
class Policy:
    """The evaluation of one policy.

    name: the name of its folder. label: as shown. scores: {suite: summary} of scores.json; a suite is
    'ramp_<k>', another task or a benchmark. rows: its episodes; [] if there is no rows.jsonl.
    """

    name: str
    label: str
    scores: Mapping[str, Mapping[str, Json]]
    rows: Sequence[Row]

    def of_suite(self, suite: str) -> list[Row]:
        """Return the rows of a suite; [] if their number is not the number of episodes in the suite's summary."""
        found = [row for row in self.rows if row.suite == suite]
        return found if len(found) == self.scores.get(suite, {}).get("episodes") else []

    def error(self, suite: str, score: str) -> float | None:
        """Return the standard error over episodes, None if it is not known."""
        if score == "recall" and "recall_se" in self.scores[suite]:
            return self.scores[suite]["recall_se"]
        rows = self.of_suite(suite)
        return runner.standard_error([getattr(row, score) for row in rows]) if rows else None


def read_policies(folder: Path) -> list[Policy]:
    """Return the policies that W/evaluate holds, those of report.POLICIES first."""

    def place(path: Path) -> tuple[int, str]:
        name = path.parent.name
        return (
            summary_table.POLICIES.index(name) if name in summary_table.POLICIES else len(summary_table.POLICIES),
            name,
        )

    found = []
    for path in sorted(folder.glob("*/scores.json"), key=place):
        rows = path.with_name("rows.jsonl")
        name = path.parent.name
        read = runner.read_rows(rows) if rows.exists() else []
        found.append(Policy(name, summary_table.LABELS.get(name, name), json_object(path) or {}, read))
    return found


def suites(policies: Sequence[Policy]) -> list[str]:
    """Return the suites that any of the policies was scored on, in the order of evaluation."""
    return list(dict.fromkeys(suite for policy in policies for suite in policy.scores))


def headline(policies: Sequence[Policy]) -> str:
    """Return the suite of the headline table: tasks with one mask if they were scored, else the first suite."""
    found = suites(policies)
    return "ramp_1" if "ramp_1" in found else found[0]


def score_table(policies: Sequence[Policy], suite: str, folded: bool = False) -> Table:
    """Return the table policy x score on one suite, each score with its standard error."""
    rows = []
    for policy in policies:
        if summary := policy.scores.get(suite):
            cells = [with_error(summary.get(name), policy.error(suite, name), digits) for name, digits in _SCORES]
            rows.append((policy.label, *cells, str(summary["episodes"])))
    head = ("policy", *(_TITLES.get(name, name) for name, _ in _SCORES), "episodes")
    return Table(f"Held-out tasks: {task_label(suite)}", head, tuple(rows), "± standard error over episodes", folded)


def recall_table(policies: Sequence[Policy], title: str = "Recall by number of masks and suite") -> Table:
    """Return the table policy x suite of recall with its standard error."""
    found = suites(policies)
    rows = []
    for policy in policies:
        own = policy.scores
        cells = [with_error(own[s]["recall"], policy.error(s, "recall"), 3) if s in own else "-" for s in found]
        rows.append((policy.label, *cells))
    return Table(title, ("policy", *map(task_label, found)), tuple(rows), "± standard error over episodes")


def recall_chart(policies: Sequence[Policy]) -> Chart | None:
    """Return the chart of recall against the number of masks, with a curve for each policy and ± one standard error.

    None if no policy was scored on more than one number of masks.
    """
    masked = list(filter(masks_of, suites(policies)))
    curves = []
    for policy in policies:
        own = [suite for suite in masked if suite in policy.scores]
        recalls = tuple(policy.scores[suite]["recall"] for suite in own)
        errors = tuple(policy.error(suite, "recall") for suite in own)
        if len(own) > 1:
            curves.append(Curve(policy.label, tuple(float(masks_of(suite)) for suite in own), recalls, errors))
    title = "Recall by number of masks (± standard error)"
    return Chart(title, "masks", "share of gold tokens", tuple(curves)) if curves else None


def kind_table(policies: Sequence[Policy], suite: str) -> Table | None:
    """Return the table policy x kind of span of recall on one suite; None if the scores have no kinds."""
    with_kinds = {one.label: one.scores[suite].get("by_kind", {}) for one in policies if suite in one.scores}
    kinds = sorted({kind for found in with_kinds.values() for kind in found})
    rows = tuple((name, *(with_error(own.get(kind), None, 3) for kind in kinds)) for name, own in with_kinds.items())
    title = f"Recall by kind of span: {task_label(suite)}"
    return Table(title, ("policy", *kinds), rows) if kinds else None


def sampled_table(policies: Sequence[Policy]) -> Table | None:
    """Return the table of sampled episodes, avg@n and pass@k of each policy and suite; None if nothing was sampled."""
    found = [
        (policy.label, suite, summary["sampled"])
        for policy in policies
        for suite, summary in policy.scores.items()
        if "sampled" in summary
    ]
    names = [name for name in ("recall", "em", "f1", "score") if any(name in one["avg"] for _, _, one in found)]
    tries = sorted({int(k) for _, _, one in found for k in one["pass"]})
    rows = tuple(
        (
            label, task_label(suite), str(one["samples"]), f"{one['temperature']:g}",
            *(with_error(one["avg"].get(name), None, 3) for name in names),
            *(with_error(one["pass"].get(str(k)), None, 3) for k in tries),
        )
        for label, suite, one in found
    )  # fmt: skip
    head = ("policy", "task", "n", "temperature", *(f"avg@n {_TITLES.get(name, name)}" for name in names))
    note = "n episodes of each task; pass@k: the chance that one of k of them is right, estimated without bias"
    return Table("Sampled episodes", (*head, *(f"pass@{k}" for k in tries)), rows, note) if found else None


def gain_table(policies: Sequence[Policy], suite: str) -> Table | None:
    """Return the table of the last policy minus each other policy with the same tasks, paired by task.

    None if no other policy has the same tasks.
    """
    *others, last = policies
    mine = last.of_suite(suite)
    rows = []
    for policy in others:
        theirs = policy.of_suite(suite)
        if mine and {row.task_id for row in theirs} == {row.task_id for row in mine}:
            cells = [_gain(functools.partial(runner.compare, theirs, mine), score) for score in ("recall", "em")]
            rows.append((f"{last.label} − {policy.label}", *cells, str(len(mine))))
    title = f"Differences, paired by task: {task_label(suite)}"
    return Table(title, ("policies", "recall", "EM", "tasks"), tuple(rows), "± standard error") if rows else None


def _gain(compare: Callable[[str], Mapping[str, float | None]], score: str) -> str:
    found = compare(score)
    return with_error(found["difference"], found["se"], 3, "+")


def with_error(value: float | None, error: float | None, digits: int, sign: str = "") -> str:
    """Return 'value ±error' as shown in tables; a dash for a value of None. sign: '+' shows positive signs as well."""
    if value is None:
        return "-"
    return f"{value:{sign}.{digits}f}" + (f" ±{error:.{digits}f}" if error is not None else "")
