"""The report page of an experiment: several runs over seeds or rounds, with means and 95 % intervals over seeds.

There are three kinds. report.json shows which one it is: a grid of methods x columns x seeds (`rows`, `columns`,
`seeds`, `measured` ..), or rounds of self-evolving distillation (`rounds`); otherwise it is a folder of workdirs
seed_<s>/.
"""

from collections.abc import Mapping
from pathlib import Path

from masksearch_jax.evals.report import grid_sections, round_sections, seed_sections
from masksearch_jax.evals.report.run_files import json_object, metric_rows, stage_folders
from masksearch_jax.evals.report.run_page import facts, period, settings_section
from masksearch_jax.evals.report.sections import Page
from masksearch_jax.runtime.types import Json, JsonObject


def is_experiment(workdir: Path) -> bool:
    report = json_object(workdir / "report.json") or {}
    return "rounds" in report or "columns" in report or bool(seed_sections.folders_of(workdir))


def experiment_page(workdir: Path) -> Page:
    """Return the page of an experiment's folder. Raises ValueError that names a file and what it lacks."""
    report = json_object(workdir / "report.json") or {}
    if "columns" in report:
        sections = grid_sections.sections(workdir, report)
    elif "rounds" in report:
        sections = round_sections.sections(workdir, report)
    else:
        sections = seed_sections.sections(workdir)
    sections.append(settings_section(report.get("config") or {}))
    workflow = report.get("workflow") or report.get("config", {}).get("workflow") or "experiment"
    found = tuple(section for section in sections if section)
    return Page(f"{workflow}: {workdir.resolve().name}", _facts(workdir, report), found)


def _facts(workdir: Path, report: Mapping[str, Json]) -> tuple[tuple[str, str], ...]:
    drawn = report.get("seeds") or [path.name[5:] for path in seed_sections.folders_of(workdir)]
    found = [("seeds", ", ".join(map(str, drawn)))] if drawn else []
    if "rounds" in report:
        found += facts(workdir, report, stage_folders(workdir))
        found.append(("rounds", str(len(report["rounds"]) - 1)))
    times = [row for path in sorted(workdir.glob("**/metrics.jsonl")) for row in _ends(path)]
    if times and "rounds" not in report:
        times.sort(key=lambda row: row.get("time", 0.0))
        found.append(("trained", period(times[0], times[-1])))
    seconds = report.get("stage_seconds", {})
    by_seed = {seed: own for seed, own in seconds.items() if isinstance(own, Mapping)}
    for seed, own in by_seed.items():
        found.append((f"seed {seed}", f"{sum(own.values()):,.0f} s"))
    return tuple(found)


def _ends(path: Path) -> list[JsonObject]:
    rows = metric_rows(path)
    return [rows[0], rows[-1]] if rows else []
