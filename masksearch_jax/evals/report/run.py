"""The page of a run: a workdir with stages, or the folder of one stage."""

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from masksearch_jax.evals.report import curves, episodes, preparation, scores, tables
from masksearch_jax.evals.report.content import Page, Section
from masksearch_jax.evals.report.files import json_object, metric_rows, stage_folders

_X = {"dapo": "iteration"}


def run_page(workdir: Path) -> Page:
    """Returns the page of what the folder holds; sections without their files are left out.

    Raises FileNotFoundError that says what to run for a folder that holds nothing of a run, ValueError that names a
    damaged file.
    """
    stages = stage_folders(workdir)
    policies = scores.read_policies(workdir / "evaluate")
    report = json_object(workdir / "report.json") or {}
    data = preparation.section(workdir)
    if not (stages or policies or data or report):
        raise FileNotFoundError(
            f"{workdir} holds no run: no metrics.jsonl, evaluate, data or report.json. Train one with `python -m "
            f"masksearch_jax.train --config=configs/dapo.py --workdir={workdir}`, or the whole line with `python -m "
            f"masksearch_jax.experiment --config=configs/quickstart.py --workdir={workdir}`"
        )
    settings = report.get("config") or {
        stage.name: found for stage in stages if (found := json_object(stage / "config.json"))
    }
    sections = [
        results(policies),
        *(stage_section(stage) for stage in stages),
        sample_section({policy.label: policy for policy in policies}),
        data,
        settings_section(settings),
    ]
    line = settings.get("line") or " + ".join(tables.LABELS.get(stage.name, stage.name) for stage in stages)
    return Page(
        f"{line or 'run'}: {workdir.resolve().name}",
        facts(workdir, report, stages),
        tuple(section for section in sections if section),
    )


def facts(workdir: Path, report: Mapping[str, Any], stages: Sequence[Path]) -> tuple[tuple[str, str], ...]:
    """What was run and when, as far as the files tell: times of the first and last row of each stage, UTC."""
    found = [("seed", str(report["seed"]))] if "seed" in report else []
    for stage in stages:
        rows = metric_rows(stage / "metrics.jsonl")
        if rows:
            reached = f"{_X.get(stage.name, 'step')} {rows[-1]['step']:,}"
            span = f"{period(rows[0], rows[-1])}, up to {reached}"
            found.append((tables.LABELS.get(stage.name, stage.name), span))
    seconds = report.get("stage_seconds") or json_object(workdir / "seconds.json") or {}
    if seconds and all(isinstance(value, int | float) for value in seconds.values()):
        found.append(("wall time", f"{sum(seconds.values()):,.0f} s"))
        found.append(("of that (s)", ", ".join(f"{stage} {value:,.0f}" for stage, value in seconds.items())))
    manifest = json_object(workdir / "data" / "manifest.json") or {}
    if "articles" in manifest:
        found.append(("data", f"{manifest['articles']:,} articles, {manifest.get('passages', 0):,} passages"))
    if code := manifest.get("code"):
        found.append(("code that prepared it", f"{code.get('version')} ({str(code.get('sha256'))[:12]})"))
    return tuple(found)


def moment(row: Mapping[str, Any]) -> str:
    """'2026-11-27 00:31' of a row of metrics.jsonl, in UTC."""
    return datetime.datetime.fromtimestamp(row.get("time", 0.0), datetime.UTC).strftime("%Y-%m-%d %H:%M")


def period(first: Mapping[str, Any], last: Mapping[str, Any]) -> str:
    """'2026-11-27 00:31 to 00:34 UTC'; with the day twice where it is another."""
    start, end = moment(first), moment(last)
    return f"{start} to {end.removeprefix(start[:11])} UTC"


def results(policies: Sequence[scores.Policy]) -> Section | None:
    """The headline table, recall by number of masks and by kind of span, and gains; None without an evaluation."""
    policies = [policy for policy in policies if policy.scores]
    if not policies:
        return None
    suite = scores.headline(policies)
    more = [scores.score_table(policies, other, folded=True) for other in scores.suites(policies) if other != suite]
    shown = (
        scores.score_table(policies, suite),
        scores.gain_table(policies, suite),
        scores.recall_table(policies),
        scores.kind_table(policies, suite),
        *more,
    )
    chart = scores.recall_chart(policies)
    return Section(
        "Results", tables=tuple(table for table in shown if table), charts=(chart,) if chart else ()
    )


def stage_section(folder: Path) -> Section | None:
    """Curves of one stage; None for an empty log."""
    rows = metric_rows(folder / "metrics.jsonl")
    if not rows:
        return None
    others = curves.other_numbers(rows)
    return Section(
        f"Training: {tables.LABELS.get(folder.name, folder.name)}",
        text=(f"{len(rows):,} rows of {folder.name}/metrics.jsonl.",),
        tables=(others,) if others else (),
        charts=curves.stage_charts(rows, _X.get(folder.name, "step")),
    )


def sample_section(policies: Mapping[str, scores.Policy]) -> Section | None:
    """Best, median and worst episode of each policy; None without episodes."""
    found = tuple(one for label, policy in policies.items() for one in episodes.chosen(policy.rows, label))
    text = "Best, median and worst episode of each policy by recall; ties are broken by a hash of the task's id."
    return Section("Sample trajectories", text=(text,), episodes=found) if found else None


def settings_section(settings: Mapping[str, Any]) -> Section | None:
    return Section("Settings", settings=settings) if settings else None
