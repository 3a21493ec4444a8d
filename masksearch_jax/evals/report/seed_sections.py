"""Report sections of one workflow that was run with several seeds, each in a workdir W/seed_<s>/.

They show means and 95 % intervals over seeds, curves for each stage, and episodes of the first seed.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from masksearch_jax.evals import intervals
from masksearch_jax.evals.report import curves, preparation_tables, score_tables
from masksearch_jax.evals.report.run_files import metric_rows, stage_folders
from masksearch_jax.evals.report.run_page import sample_section
from masksearch_jax.evals.report.sections import Chart, Curve, Section, Table
from masksearch_jax.evals.report.task_labels import task_label


def folders_of(workdir: Path) -> list[Path]:
    """Return the folders seed_<s> (or seed-<s>), ordered by number."""
    found = [path for path in workdir.glob("seed*") if re.fullmatch(r"seed[_-]\d+", path.name) and path.is_dir()]
    return sorted(found, key=lambda path: int(re.split("[_-]", path.name)[1]))


def sections(workdir: Path) -> list[Section | None]:
    """Return the sections. Raises FileNotFoundError that says what to run if no seed holds a stage or an evaluation."""
    folders = folders_of(workdir)
    of_seeds = [{policy.name: policy for policy in score_tables.read_policies(path / "evaluate")} for path in folders]
    if not any(of_seeds) and not any(map(stage_folders, folders)):
        raise FileNotFoundError(
            f"{workdir} has {', '.join(path.name for path in folders)}; none holds a stage or an evaluation. A grid "
            "of methods has a report.json after its first seed: start it again with the line that began it. A run in "
            f"one of them: `python -m masksearch_jax.experiment --config=configs/quickstart.py --workdir={folders[0]}`"
        )
    logs: dict[str, dict[str, list]] = {}
    for folder in folders:
        for stage in stage_folders(folder):
            if rows := metric_rows(stage / "metrics.jsonl"):
                logs.setdefault(stage.name, {}).setdefault("mean over seeds", []).append(rows)
    found_sections = [_results(of_seeds)]
    for name, found in logs.items():
        if charts := curves.compared(found, "iteration" if name == "dapo" else "step"):
            text = (f"Mean over {len(found['mean over seeds'])} seeds; the band is the 95 % interval.",)
            found_sections.append(Section(f"Training: {name}", text, charts=charts))
    first = next((own for own in of_seeds if own), {})
    found_sections.append(sample_section({policy.label: policy for policy in first.values()}))
    found_sections.append(preparation_tables.section(folders[0]))
    return found_sections


def _results(of_seeds: Sequence[Mapping[str, score_tables.Policy]]) -> Section | None:
    every = [policy for own in of_seeds for policy in own.values() if policy.scores]
    if not every:
        return None
    suites, names = score_tables.suites(every), list(dict.fromkeys(policy.name for policy in every))
    labels = {policy.name: policy.label for policy in every}
    found = {name: {suite: _over_seeds(of_seeds, name, suite) for suite in suites} for name in names}
    rows = tuple(
        (
            labels[name],
            *(score_tables.with_error(one["mean"], one["half_width"], 3) if one else "-" for one in own.values()),
        )
        for name, own in found.items()
    )
    note = f"mean over up to {len(of_seeds)} seeds ± half-width of the 95 % t interval"
    table = Table("Held-out recall", ("policy", *map(task_label, suites)), rows, note)
    charts = []
    for suite in suites:
        measured = {name: over for name, one in found.items() if (over := one[suite])}
        bars = Curve(
            suite, tuple(map(float, range(len(measured)))), tuple(o["mean"] for o in measured.values()),
            tuple(o["half_width"] for o in measured.values()),
        )  # fmt: skip
        title = f"{task_label(suite)} (95 % intervals)"
        charts.append(Chart(title, "token recall", "", (bars,), "bars", tuple(labels[name] for name in measured)))
    return Section("Results", tables=(table,), charts=tuple(charts))


def _over_seeds(
    of_seeds: Sequence[Mapping[str, score_tables.Policy]], name: str, suite: str
) -> intervals.Interval | None:
    """Return the mean and interval (evals.intervals) of a policy's recall on a suite; None if no seed has it."""
    values = [own[name].scores[suite]["recall"] for own in of_seeds if name in own and suite in own[name].scores]
    return intervals.mean(values) if values else None
