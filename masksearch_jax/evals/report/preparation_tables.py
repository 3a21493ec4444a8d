"""Tables of what a run was made of: passages, spans, tasks, search indices and the teacher's demonstrations."""

from collections.abc import Mapping
from pathlib import Path

from masksearch_jax.evals.report.run_files import json_object
from masksearch_jax.evals.report.sections import Section, Table
from masksearch_jax.evals.report.task_labels import task_label
from masksearch_jax.runtime.types import Json

# Readable names of the counts in data/report.json.
_COUNTS = {
    "pages": "pages of the dump", "redirects": "redirects", "non_articles": "no articles", "damaged": "damaged pages",
    "articles": "articles", "passages_with_our_tags": "passages that hold our tags",
    "vocabulary": "tokens of the vocabulary",
    "wikitext_mb": "wikitext (MB)", "wikitext_mb_per_second": "wikitext a second (MB)",
}  # fmt: skip


def section(workdir: Path) -> Section | None:
    """Return the section of W/data/report.json and W/demonstrations/manifest.json; None without either."""
    made = json_object(workdir / "data" / "report.json") or {}
    demonstrations = json_object(workdir / "demonstrations" / "manifest.json") or {}
    found = (
        _counts(made),
        _passages(made),
        _counted("Masked spans found", "kind", made.get("spans", {})),
        _examples(made),
        _indices(made),
        *teacher_tables(demonstrations.get("tasks", {})),
        _counted("Seconds of preparation", "step", made.get("seconds", {})),
    )
    kept = tuple(table for table in found if table)
    return Section("Data, index and teacher", tables=kept) if kept else None


def teacher_tables(tasks: Mapping[str, Mapping[str, Json]]) -> list[Table]:
    """Return tables of the demonstrations by task, and of how often each query style finds the answer."""
    rows, rates, styles = [], {}, []
    for task, one in tasks.items():
        outcomes = one.get("outcomes", {})
        tried, written = sum(outcomes.values()), one.get("written", 0)
        if not tried:
            continue
        why = ", ".join(f"{name} {count:,}" for name, count in outcomes.items() if name != "accepted")
        rows.append((
            task_label(task), f"{written:,}", _rate(outcomes.get("accepted", 0), tried),
            f"{one['searches'] / written:.2f}" if written and "searches" in one else "-",
            f"{one['tokens'] / written:.1f}" if written and "tokens" in one else "-",
            why or "-",
        ))  # fmt: skip
        rates[task] = one.get("top3_contains_answer", {})
        styles += rates[task]
    styles = list(dict.fromkeys(styles))
    head = ("task", "written", "accepted", "searches", "tokens", "rejected")
    found = [Table("Demonstrations of the teacher", head, tuple(rows), "searches, tokens: of a demonstration")]
    if styles:
        cells = tuple(
            (task_label(task), *(f"{100 * own[style]['rate']:.1f} %" if style in own else "-" for style in styles))
            for task, own in rates.items()
        )
        note = "masks whose answer stands among the first three hits of a query of that style"
        found.append(Table("Hit rates of the teacher's queries", ("task", *styles), cells, note))
    return found if rows else []


def _counts(made: Mapping[str, Json]) -> Table | None:
    rows = [(words, f"{made[name]:,}") for name, words in _COUNTS.items() if name in made]
    lengths = made.get("tokens_per_passage", {})
    rows += [(f"tokens of a passage, {name}", f"{value:,}") for name, value in lengths.items()]
    return Table("Counts", ("what", "count"), tuple(rows)) if rows else None


def _passages(made: Mapping[str, Json]) -> Table | None:
    counts, with_spans = made.get("passages", {}), made.get("passages_with_spans", {})
    if not isinstance(counts, Mapping) or not counts:
        return None
    rows = tuple((split, f"{count:,}", f"{with_spans.get(split, 0):,}") for split, count in counts.items())
    return Table("Passages", ("split", "passages", "with spans"), rows)


def _examples(made: Mapping[str, Json]) -> Table | None:
    """Return the table of task counts. Epochs with equal counts are shown as count x epochs, others as their sum."""
    by_split = made.get("examples", {})
    tasks = list(dict.fromkeys(task for found in by_split.values() for task in found))
    rows = []
    for split, found in by_split.items():
        cells = []
        for task in tasks:
            counts = found.get(task, [])
            same = f"{counts[0]:,} x {len(counts)}" if len(counts) > 1 else f"{sum(counts):,}"
            cells.append(same if len(set(counts)) < 2 else f"{sum(counts):,}")
        rows.append((split, *cells))
    note = "tasks x epochs, each masked anew"
    return Table("Tasks", ("split", *map(task_label, tasks)), tuple(rows), note) if rows else None


def _indices(made: Mapping[str, Json]) -> Table | None:
    names = (
        "passages", "encoder", "dims", "index", "method", "recall_at_10", "passages_with_near_duplicates", "seconds"
    )  # fmt: skip
    rows = tuple((name, *(_cell(one.get(key)) for key in names)) for name, one in made.get("indices", {}).items())
    head = ("index over", *(name.replace("_", " ").replace("passages with ", "") for name in names))
    return Table("Search indices", head, rows, "recall at 10: against exact search") if rows else None


def _counted(title: str, what: str, counts: Mapping[str, Json]) -> Table | None:
    rows = tuple((name, _cell(value)) for name, value in counts.items())
    return Table(title, (what, "seconds" if "econds" in title else "count"), rows) if rows else None


def _cell(value: Json) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _rate(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %"
