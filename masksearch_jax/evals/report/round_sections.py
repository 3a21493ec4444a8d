"""Report sections of self-evolving distillation, as workflows/evolve.py writes it.

Enters: report.json with rounds [{round, tasks, set, held_out}]. Round 0 is in W, round n in W/round_<n>/.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from masksearch_jax.evals.report import curves, preparation_tables, score_tables
from masksearch_jax.evals.report.run_files import metric_rows
from masksearch_jax.evals.report.run_page import sample_section
from masksearch_jax.evals.report.sections import Chart, Curve, Section, Table
from masksearch_jax.evals.report.task_labels import task_label
from masksearch_jax.runtime.types import Json


def sections(workdir: Path, report: Mapping[str, Json]) -> list[Section | None]:
    """Return the sections. Raises ValueError that names what a round of report.json lacks."""
    rounds = report["rounds"]
    _check(workdir, rounds)
    folders, names = [workdir], ["round 0"]
    for one in rounds[1:]:
        folder, name = workdir / f"round_{one['round']}", f"round {one['round']}"
        if "control" in one:
            folders.append(workdir / f"{folder.name}_control")
            names.append(f"{name}, none new")
        folders.append(folder)
        names.append(name)
    policies = {}
    for name, folder in zip(names, folders, strict=True):
        for policy in score_tables.read_policies(folder / "evaluate"):
            policies[name] = policy
    logs = {
        name: [rows]
        for name, folder in zip(names, folders, strict=True)
        if (rows := metric_rows(folder / "sft" / "metrics.jsonl"))
    }
    training = curves.compared(logs)
    return [
        Section("Results by round", tables=_tables(rounds), charts=_charts(rounds)),
        Section("Training by round", charts=training) if training else None,
        sample_section(policies),
        preparation_tables.section(workdir),
    ]


def _check(workdir: Path, rounds: Sequence[Mapping[str, Json]]) -> None:
    for one in rounds:
        if missing := [name for name in ("round", "tasks", "set") if name not in one]:
            raise ValueError(f"{workdir / 'report.json'}: a round lacks {missing}; run its experiment again")


def _tables(rounds: Sequence[Mapping[str, Json]]) -> tuple[Table, ...]:
    suites = list(dict.fromkeys(suite for one in rounds for suite in one.get("held_out", {})))
    recall, size = [], ""
    for one in rounds:
        if "control" in one:
            recall.append((f"round {one['round']}, none new", size, *(_recall(one["control"].get(s)) for s in suites)))
        size = f"{sum(one['set'].values()):,}"
        recall.append((f"round {one['round']}", size, *(_recall(one.get("held_out", {}).get(s)) for s in suites)))
    found = [
        Table(
            "Held-out recall by round", ("round", "demonstrations", *map(task_label, suites)), tuple(recall),
            "± standard error over episodes",
        )
    ]  # fmt: skip
    shown = ("acceptance", "solved", "diversity", "searches")
    made = tuple(
        (
            f"round {one['round']}, {task_label(task)}",
            f"{own['tasks']:,}", f"{own['new']:,}", *(f"{own[name]:.3f}" for name in shown),
            ", ".join(f"{name} {count:,}" for name, count in own["outcomes"].items()),
        )
        for one in rounds
        for task, own in one["tasks"].items()
    )  # fmt: skip
    if made:
        note = (
            "acceptance: of sampled trajectories; solved: tasks with an accepted one; diversity: distinct of all "
            "queries; searches: of an accepted trajectory"
        )
        head = ("round and task", "tasks", "new", *shown, "outcomes")
        found.append(Table("What each teacher demonstrated", head, made, note))
    return tuple(found)


def _charts(rounds: Sequence[Mapping[str, Json]]) -> tuple[Chart, ...]:
    recalls: dict[str, list[tuple[int, float, float | None]]] = {}
    accepted: dict[str, list[tuple[int, float, float | None]]] = {}
    for one in rounds:
        for suite, summary in one.get("held_out", {}).items():
            recalls.setdefault(task_label(suite), []).append((
                one["round"],
                summary["recall"],
                summary.get("recall_se"),
            ))
        for task, own in one["tasks"].items():
            accepted.setdefault(task_label(task), []).append((one["round"], own["acceptance"], None))
    sizes = {"all tasks": [(one["round"], sum(one["set"].values()), None) for one in rounds]}
    shown = (
        ("Held-out recall (± standard error)", "share of gold tokens", recalls),
        ("Accepted trajectories", "share of sampled ones", accepted),
        ("Size of the set", "demonstrations", sizes),
    )
    return tuple(
        Chart(title, "round", unit, tuple(Curve(name, *zip(*points, strict=True)) for name, points in found.items()))
        for title, unit, found in shown
        if found
    )


def _recall(summary: Mapping[str, Json] | None) -> str:
    return score_tables.with_error(summary["recall"], summary.get("recall_se"), 3) if summary else "-"
