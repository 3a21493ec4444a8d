"""The report page of a run: a workdir with stages, or the folder of one stage."""

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path

from masksearch_jax.evals.report import (
    curves,
    episode_samples,
    iteration_parts,
    preparation_tables,
    score_tables,
    summary_table,
)
from masksearch_jax.evals.report.run_files import json_object, metric_rows, stage_folders
from masksearch_jax.evals.report.sections import Page, Section
from masksearch_jax.runtime.types import Json

_X = {"dapo": "iteration"}


def run_page(workdir: Path) -> Page:
    """Return the page of what the folder holds. Sections whose files are missing are left out.

    Raises FileNotFoundError that says what to run if the folder holds nothing of a run, ValueError that names a damaged
    file.
    """
    stages = stage_folders(workdir)
    policies = score_tables.read_policies(workdir / "evaluate")
    report = json_object(workdir / "report.json") or {}
    data = preparation_tables.section(workdir)
    if not (stages or policies or data or report):
        raise FileNotFoundError(
            f"{workdir} holds no run: no metrics.jsonl, evaluate, data or report.json. Train one with `python -m "
            f"masksearch_jax.train --config=configs/dapo.py --workdir={workdir}`, or run a whole workflow with "
            f"`python -m masksearch_jax.experiment --config=configs/quickstart.py --workdir={workdir}`"
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
    trained = " + ".join(summary_table.LABELS.get(stage.name, stage.name) for stage in stages)
    workflow = settings.get("workflow") or trained
    return Page(
        f"{workflow or 'run'}: {workdir.resolve().name}",
        facts(workdir, report, stages),
        tuple(section for section in sections if section),
    )


def facts(workdir: Path, report: Mapping[str, Json], stages: Sequence[Path]) -> tuple[tuple[str, str], ...]:
    """Return (name, value) pairs of what was run and when. A stage's times are those of its first and last row, UTC."""
    found = [("seed", str(report["seed"]))] if "seed" in report else []
    for stage in stages:
        rows = metric_rows(stage / "metrics.jsonl")
        if rows:
            reached = f"{_X.get(stage.name, 'step')} {rows[-1]['step']:,}"
            span = f"{period(rows[0], rows[-1])}, up to {reached}"
            found.append((summary_table.LABELS.get(stage.name, stage.name), span))
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


def moment(row: Mapping[str, Json]) -> str:
    """Return the time of a row of metrics.jsonl in UTC, such as '2026-11-27 00:31'."""
    return datetime.datetime.fromtimestamp(row.get("time", 0.0), datetime.UTC).strftime("%Y-%m-%d %H:%M")


def period(first: Mapping[str, Json], last: Mapping[str, Json]) -> str:
    """Return a period such as '2026-11-27 00:31 to 00:34 UTC'. The end has its own date if that differs."""
    start, end = moment(first), moment(last)
    return f"{start} to {end.removeprefix(start[:11])} UTC"


def results(policies: Sequence[score_tables.Policy]) -> Section | None:
    """Return the section of scores; None without any.

    It has the headline table, gains, recall by suite and by kind of span, and sampled episodes if there are some.
    """
    policies = [policy for policy in policies if policy.scores]
    if not policies:
        return None
    suite = score_tables.headline(policies)
    more = [
        score_tables.score_table(policies, other, folded=True)
        for other in score_tables.suites(policies)
        if other != suite
    ]
    shown = (
        score_tables.score_table(policies, suite),
        score_tables.gain_table(policies, suite),
        score_tables.recall_table(policies),
        score_tables.sampled_table(policies),
        score_tables.kind_table(policies, suite),
        *more,
    )
    chart = score_tables.recall_chart(policies)
    return Section("Results", tables=tuple(table for table in shown if table), charts=(chart,) if chart else ())


def stage_section(folder: Path) -> Section | None:
    """Return the section of a stage's training curves; None for an empty log."""
    rows = metric_rows(folder / "metrics.jsonl")
    if not rows:
        return None
    others, step = curves.other_numbers(rows), _X.get(folder.name, "step")
    parts = iteration_parts.measure(rows)
    tables = (iteration_parts.table(parts, step) if parts else None, others)
    charts = (iteration_parts.picture(parts, step),) if parts else ()
    return Section(
        f"Training: {summary_table.LABELS.get(folder.name, folder.name)}",
        text=(f"{len(rows):,} rows of {folder.name}/metrics.jsonl.",),
        tables=tuple(table for table in tables if table),
        charts=charts + curves.stage_charts(rows, step),
    )


def sample_section(policies: Mapping[str, score_tables.Policy]) -> Section | None:
    """Return the section of the best, median and worst episode of each policy; None without episodes."""
    found = tuple(one for label, policy in policies.items() for one in episode_samples.chosen(policy.rows, label))
    text = "Best, median and worst episode of each policy by recall; ties are broken by a hash of the task's id."
    return Section("Sample trajectories", text=(text,), episodes=found) if found else None


def settings_section(settings: Mapping[str, Json]) -> Section | None:
    return Section("Settings", settings=settings) if settings else None
