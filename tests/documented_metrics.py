"""The keys that docs/metrics.md lists, and which keys of a run it lacks."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import doc_pages

PAGE = doc_pages.DOCS / "metrics.md"
# Keys of report.json whose content another part of the page, or another file, describes.
_OTHERS = ("config", "prepare", "stage_seconds", "demonstrations", "rules", "methods", "seeds", "columns", "groups")


def section(name: str) -> str:
    """Return the part of the page below '## name'."""
    parts = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.M)
    return next(part for part in parts if part.split("\n")[0] == name)


def keys(text: str) -> list[str]:
    """Return the first cells of the tables in `text`, without backquotes."""
    return [row[0].strip("`") for table in doc_pages.tables(text) if table[0][0] == "key" for row in table[1:]]


def is_listed(key: str, listed: list[str]) -> bool:
    """Return True if a key is listed. '<name>' in a listed key stands for any text without '/' and '.'."""
    return any(re.fullmatch(re.sub(r"<\w+>", "[^/.]+", re.escape(one)), key) for one in listed)


def missing_metrics(workdir: Path) -> set[str]:
    """Return the keys of all metrics.jsonl below a folder that the page does not list."""
    listed, found = keys(section("metrics.jsonl")), set()
    for path in workdir.rglob("metrics.jsonl"):
        for line in path.read_text().splitlines():
            found |= {key for key in json.loads(line) if not is_listed(key, listed)}
    return found


def missing_report_keys(report: Mapping[str, Any], heading: str) -> set[str]:
    """Return the keys of a report.json that the page does not list below '### heading'. A summary is compared too."""
    parts = {part.split("\n")[0]: part for part in re.split(r"^### ", section("report.json"), flags=re.M)}
    listed, summary = keys(parts[heading]), keys(parts["A summary"])
    listed += [key.partition(".")[0] for key in listed if key.startswith(_OTHERS)]
    return {key for key in _flat(report, summary) if not is_listed(key, [*listed, *summary])}


def _flat(report: Mapping[str, Any], summary: list[str], prefix: str = "") -> Iterator[str]:
    """Yield the keys of a report, joined by '.', down to summaries, whose own keys follow without a prefix."""
    for key, value in report.items():
        name = f"{prefix}{key}"
        if name in _OTHERS or not isinstance(value, Mapping):
            yield name
        elif "episodes" in value and "recall" in value:
            yield name
            for own, inner in value.items():
                yield from (f"{own}.{one}" for one in inner) if isinstance(inner, Mapping) else [own]
        elif "difference" in value:
            yield name
        else:
            yield from _flat(value, summary, f"{name}.")
