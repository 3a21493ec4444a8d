"""Report sections of a grid of methods x columns x seeds, as workflows/grid.py writes it.

Enters: report.json with rows [{label, chain, policy, baseline}], columns, seeds, measured and gains {label: {column:
{mean, half_width}}}, tokens {label: [{kind: count} of each seed]} and groups [[title, [label, ..]], ..]; and a folder
W/seed_<s>/<chain with + for />/ for each cell.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from masksearch_jax.evals import intervals
from masksearch_jax.evals.report import curves, score_tables
from masksearch_jax.evals.report.run_files import metric_rows
from masksearch_jax.evals.report.run_page import sample_section
from masksearch_jax.evals.report.sections import Chart, Curve, Section, Table
from masksearch_jax.evals.report.task_labels import task_label
from masksearch_jax.runtime.types import Json

_FIELDS = ("methods", "columns", "seeds", "measured")


def sections(workdir: Path, report: Mapping[str, Json]) -> list[Section | None]:
    """Return the sections. Raises ValueError that names what report.json lacks."""
    missing = [name for name in _FIELDS if name not in report]
    if missing:
        raise ValueError(f"{workdir / 'report.json'} has columns but lacks {missing}; run its experiment again")
    labels = [method["label"] for method in report["methods"]]
    for label in labels:
        for column in report["columns"]:
            if column not in report["measured"].get(label, {}):
                raise ValueError(f"{workdir / 'report.json'}: measured lacks {column!r} of method {label!r}")
    return [
        Section("Results", tables=_tables(report), charts=_charts(report)),
        *_training(workdir, report),
        sample_section(_policies(workdir, report)),
    ]


def _tables(report: Mapping[str, Json]) -> tuple[Table, ...]:
    columns, seeds = report["columns"], len(report["seeds"])
    note = f"token recall x 100: mean over {seeds} seeds ± half-width of the 95 % t interval"
    labels = [method["label"] for method in report["methods"]]
    rows = tuple((label, *_cells(report["measured"][label], columns)) for label in labels)
    found = [Table("Held-out recall", ("method", *columns), rows, note)]
    gains = report.get("gains", {})
    rows = tuple(
        (f"{method['label']} − {method['baseline']}", *_cells(gains[method["label"]], columns, "+"))
        for method in report["methods"]
        if method["label"] in gains
    )
    if rows:
        found.append(Table("Differences from the baseline", ("methods", *columns), rows, f"{note}, paired by seed"))
    tokens = report.get("tokens", {})
    kinds = list(dict.fromkeys(kind for own in tokens.values() for one in own for kind in one))
    means = {label: {kind: _mean(one.get(kind, 0) for one in own) for kind in kinds} for label, own in tokens.items()}
    rows = tuple((label, *(f"{own[kind]:,.0f}" for kind in kinds)) for label, own in means.items())
    if rows:
        found.append(Table("Tokens of training", ("method", *kinds), rows, "all stages of a chain, mean over seeds"))
    return tuple(found)


def _charts(report: Mapping[str, Json]) -> tuple[Chart, ...]:
    """Return a chart for each column, with a bar for each method."""
    labels, charts = [method["label"] for method in report["methods"]], []
    for column in report["columns"]:
        found = [report["measured"][label][column] for label in labels]
        widths = tuple(_percent(one["half_width"]) for one in found)
        bars = Curve(column, tuple(map(float, range(len(labels)))), tuple(100 * one["mean"] for one in found), widths)
        title = f"{task_label(column)} (95 % intervals)"
        charts.append(Chart(title, "token recall x 100", "", (bars,), "bars", tuple(labels)))
    return tuple(charts)


def _training(workdir: Path, report: Mapping[str, Json]) -> list[Section]:
    """Return sections with the training curves of cells as means over seeds; SFT and DAPO have separate sections.

    There is one such pair of sections for all cells, or one for each of the report's groups of methods. A cell is
    labelled as the first method whose chain ends with it.
    """
    text = ("Mean over seeds; the band is the 95 % interval.",)
    names = {method["chain"]: method["label"] for method in reversed(report["methods"]) if not method.get("policy")}
    chains = {label: chain for chain, label in names.items()}
    sections = []
    for title, labels in report.get("groups") or [("", list(chains))]:
        wanted = dict.fromkeys(
            "/".join(chain.split("/")[:n])
            for chain in (chains[label] for label in labels)
            for n in range(1, chain.count("/") + 2)
        )
        for stage, called, step in (("sft", "SFT", "step"), ("dapo", "DAPO", "iteration")):
            found = {names.get(cell, cell): _of_seeds(workdir, report, cell, stage) for cell in wanted}
            charts = curves.compared({name: rows for name, rows in found.items() if rows}, step)
            sections.append(Section(f"{title}: {called}" if title else f"Training by {called}", text, charts=charts))
    return [section for section in sections if section.charts]


def _of_seeds(workdir: Path, report: Mapping[str, Json], cell: str, stage: str) -> list[curves.Rows]:
    folders = [workdir / f"seed_{seed}" / cell.replace("/", "+") / stage for seed in report["seeds"]]
    return [rows for folder in folders if (rows := metric_rows(folder / "metrics.jsonl"))]


def _policies(workdir: Path, report: Mapping[str, Json]) -> dict[str, score_tables.Policy]:
    """Return {label and seed: policy} of each method, from the first seed."""
    found = {}
    for method in report["methods"]:
        cell = workdir / f"seed_{report['seeds'][0]}" / method["chain"].replace("/", "+") / "evaluate"
        policies = {policy.name: policy for policy in score_tables.read_policies(cell)}
        names = [name for name in (method.get("policy"), "dapo", "sft") if name in policies]
        if names:
            found[f"{method['label']}, seed {report['seeds'][0]}"] = policies[names[0]]
    return found


def _cells(found: Mapping[str, intervals.Interval], columns: Sequence[str], sign: str = "") -> list[str]:
    return [score_tables.with_error(100 * found[c]["mean"], _percent(found[c]["half_width"]), 1, sign) for c in columns]


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _mean(values: Iterable[float]) -> float:
    return intervals.mean(list(values))["mean"]
