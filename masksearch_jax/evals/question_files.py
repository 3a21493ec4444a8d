"""Shared code of the benchmark readers: the `Question`, reading a file, checking a field.

Enters: a file (.json, .jsonl, .csv, .tsv, each also with .gz), and a sentence that says where to get it. Leaves: its
entries, each with its place in the file for error messages. Every fault raises an error that names file, entry and
field.
"""

import csv
import dataclasses
import gzip
import io
import reprlib
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import UnionType

from masksearch_jax.runtime.json_files import parse_json
from masksearch_jax.runtime.types import Json, JsonObject

# Shows wrong values in messages: enough of them to find the place, however large and deep they are.
_SHOWN = reprlib.Repr()
_SHOWN.maxstring = _SHOWN.maxother = 80


@dataclasses.dataclass(frozen=True)
class Question:
    """One question of a benchmark.

    answers: accepted strings without duplicates, the official one first. supporting_titles: articles that state the
    facts, without duplicates. reference: the structured answer if the benchmark scores one (FanOutQA's string, number,
    bool, list or dict), else None. details: what the benchmark itself says about the question, such as its type.
    """

    id: str
    question: str
    answers: list[str]
    supporting_titles: list[str]
    reference: Json = None
    details: dict[str, str] = dataclasses.field(default_factory=dict)


def read_text(path: Path, source: str) -> str:
    """Return the text of a file. Raises FileNotFoundError that ends with `source`, or ValueError if it is damaged."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; {source}")
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a readable file ({error}); {source}") from error


def read_json(path: Path, source: str, kinds: type | UnionType = list) -> Json:
    """Return the value of a JSON file. Raises ValueError unless it is a non-empty value of `kinds`."""
    text_of_file = read_text(path, source)
    try:
        entries = parse_json(text_of_file)
    except ValueError as error:
        raise ValueError(f"{path} {error}; {source}") from error
    if not isinstance(entries, kinds) or not entries:
        raise ValueError(f"{path} must hold a non-empty JSON list, got {type(entries).__name__}; {source}")
    return entries


def read_jsonl(path: Path, source: str) -> list[Json]:
    """Return the values of a file with one JSON value per line; blank lines are skipped."""
    entries = []
    for number, line in enumerate(read_text(path, source).split("\n"), 1):  # not splitlines: strings may hold U+2028
        try:
            entries += [parse_json(line)] if line.strip() else []
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: not a line of JSON: it {error}; {source}") from error
    if not entries:
        raise ValueError(f"{path} is empty; {source}")
    return entries


def read_table(path: Path, source: str, columns: tuple[str, ...], delimiter: str = ",") -> list[dict[str, str]]:
    """Return the rows of a CSV or TSV file as {column: cell}, without blank rows.

    The header is the first row that names all of `columns`, since an exported spreadsheet may have notes above it. Each
    returned row has all of `columns`; cells that a short row lacks are ''. Raises ValueError that names file and row
    for a row with more cells than the header, which a missing quotation mark can cause, and ValueError for a column of
    `columns` that occurs twice.
    """
    reader = csv.reader(io.StringIO(read_text(path, source), newline=""), delimiter=delimiter)
    try:
        rows = list(reader)
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: not a row of a table ({error}); {source}") from error
    start = next((place for place, row in enumerate(rows) if set(columns) <= {name.strip() for name in row}), None)
    if start is None:
        raise ValueError(f"{path}: no row names the columns {', '.join(columns)}; {source}")
    header = [name.strip() for name in rows[start]]
    if twice := [name for name in columns if header.count(name) > 1]:
        raise ValueError(f"{path} has two columns {twice[0]!r}; {source}")
    found = [row for row in rows[start + 1 :] if any(cell.strip() for cell in row)]
    if not found:
        raise ValueError(f"{path} has a header and no rows; {source}")
    for index, row in enumerate(found):
        if any(cell.strip() for cell in row[len(header) :]):
            raise ValueError(
                f"{path}, entry {index}: {len(row)} cells for the {len(header)} columns of the header, so that some "
                f"field holds part of another; {source}"
            )
    empty = dict.fromkeys(columns, "")
    return [empty | dict(zip(header, row, strict=False)) for row in found]


def numbered(path: Path | str, entries: Iterable[Json]) -> Iterator[tuple[str, JsonObject]]:
    """Yield ('FILE, entry N', entry). Raises ValueError for an entry that is not an object."""
    for index, entry in enumerate(entries):
        where = f"{path}, entry {index}"
        if not isinstance(entry, dict):
            raise ValueError(f"{where}: expected an object, got {type(entry).__name__}")
        yield where, entry


def text(entry: JsonObject, field: str, where: str) -> str:
    """Return a field that must be a non-empty string without unpaired surrogates."""
    value = entry.get(field)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{where}: field {field!r} must be a non-empty string, got {shown(value)}")
    check_characters(value, field, where)
    return value


def texts(entry: JsonObject, field: str, where: str) -> list[str]:
    """Return a field that must be a list of strings without unpaired surrogates."""
    value = entry.get(field)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"{where}: field {field!r} must be a list of strings, got {shown(value)}")
    for item in value:
        check_characters(item, field, where)
    return value


def check_characters(value: str, field: str, where: str) -> None:
    """Raise ValueError for half of a surrogate pair, which no tokenizer and no file of ours can hold."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{where}: field {field!r} holds half of a surrogate pair, {value[error.start]!r}, at character "
            f"{error.start}"
        ) from None


def shown(value: Json) -> str:
    """Return a value as text for a message: its outer levels, cut to one line."""
    return _SHOWN.repr(value)


def accepted(candidates: Iterable[str], field: str, where: str) -> list[str]:
    """Return the non-empty answers in order, without duplicates. Raises ValueError if there is none."""
    found = list(dict.fromkeys(answer.strip() for answer in candidates if answer.strip()))
    if not found:
        raise ValueError(f"{where}: field {field!r} holds no answer")
    return found


def distinct(path: Path | str, questions: list[Question], field: str) -> list[Question]:
    """Return the questions. Raises ValueError that names entry and `field` for an id that occurs twice."""
    seen: dict[str, int] = {}
    for index, question in enumerate(questions):
        if question.id in seen:
            raise ValueError(
                f"{path}, entry {index}: field {field!r} {question.id!r} is that of entry {seen[question.id]}"
            )
        seen[question.id] = index
    return questions
