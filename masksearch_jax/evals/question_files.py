"""What all readers of benchmark files share: the `Question`, opening a file, checking a field.

In: a file on disk (.json, .jsonl, .csv, .tsv, each also with .gz), and the sentence that says where to get it. Out:
its entries with the place of each, for messages. Every fault is an error that names file, entry and field.
"""

import csv
import dataclasses
import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class Question:
    """One question of a benchmark.

    answers: accepted strings, official one first, none twice. supporting_titles: articles that state the facts, each
    once. reference: the structured answer where a benchmark scores one (FanOutQA's string, number, bool, list or
    dict), None elsewhere. details: what the benchmark says about the question in its own words, such as its type.
    """

    id: str
    question: str
    answers: list[str]
    supporting_titles: list[str]
    reference: Any = None
    details: dict[str, str] = dataclasses.field(default_factory=dict)


def read_text(path: Path, source: str) -> str:
    """Returns the text of a file. Raises FileNotFoundError that ends with `source`, or ValueError if it is damaged."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; {source}")
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a readable file ({error}); {source}") from error


def read_json(path: Path, source: str, kinds: Any = list) -> Any:
    """Returns what a JSON file holds; raises ValueError unless it is a non-empty value of `kinds`."""
    try:
        entries = json.loads(read_text(path, source))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not a readable JSON file ({error}); {source}") from error
    if not isinstance(entries, kinds) or not entries:
        raise ValueError(f"{path} must hold a non-empty JSON list, got {type(entries).__name__}; {source}")
    return entries


def read_jsonl(path: Path, source: str) -> list[Any]:
    """Returns the values of a file of one JSON value a line; blank lines are passed over."""
    entries = []
    for number, line in enumerate(read_text(path, source).split("\n"), 1):  # not splitlines: strings may hold U+2028
        try:
            entries += [json.loads(line)] if line.strip() else []
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: not a line of JSON ({error}); {source}") from error
    if not entries:
        raise ValueError(f"{path} is empty; {source}")
    return entries


def read_table(path: Path, source: str, columns: tuple[str, ...], delimiter: str = ",") -> list[dict[str, str]]:
    """Returns the rows of a CSV or TSV file by column, blank ones left out.

    The header is the first row that names all of `columns`: an exported spreadsheet may have notes above it.
    """
    rows = list(csv.reader(io.StringIO(read_text(path, source), newline=""), delimiter=delimiter))
    start = next((place for place, row in enumerate(rows) if set(columns) <= {name.strip() for name in row}), None)
    if start is None:
        raise ValueError(f"{path}: no row names the columns {', '.join(columns)}; {source}")
    header = [name.strip() for name in rows[start]]
    found = [dict(zip(header, row, strict=False)) for row in rows[start + 1 :] if any(cell.strip() for cell in row)]
    if not found:
        raise ValueError(f"{path} has a header and no rows; {source}")
    return found


def numbered(path: Path | str, entries: Iterable[Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields ('FILE, entry N', entry); raises ValueError for an entry that is not an object."""
    for index, entry in enumerate(entries):
        where = f"{path}, entry {index}"
        if not isinstance(entry, dict):
            raise ValueError(f"{where}: expected an object, got {type(entry).__name__}")
        yield where, entry


def text(entry: dict[str, Any], field: str, where: str) -> str:
    """Returns a field that must be a non-empty string."""
    value = entry.get(field)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{where}: field {field!r} must be a non-empty string, got {value!r}")
    return value


def texts(entry: dict[str, Any], field: str, where: str) -> list[str]:
    """Returns a field that must be a list of strings."""
    value = entry.get(field)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"{where}: field {field!r} must be a list of strings, got {value!r}")
    return value


def accepted(candidates: Iterable[str], field: str, where: str) -> list[str]:
    """Returns the answers that say something, each once, in order; raises ValueError if none does."""
    found = list(dict.fromkeys(answer.strip() for answer in candidates if answer.strip()))
    if not found:
        raise ValueError(f"{where}: field {field!r} holds no answer")
    return found


def distinct(path: Path | str, questions: list[Question], field: str) -> list[Question]:
    """Returns the questions; raises ValueError that names entry and `field` for an id that occurs twice."""
    seen: dict[str, int] = {}
    for index, question in enumerate(questions):
        if question.id in seen:
            raise ValueError(
                f"{path}, entry {index}: field {field!r} {question.id!r} is that of entry {seen[question.id]}"
            )
        seen[question.id] = index
    return questions
