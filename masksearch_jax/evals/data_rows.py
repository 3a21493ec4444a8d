"""Read the rows of a data file one after the other: JSON lines, a JSON list, parquet, CSV, TSV.

Enters: a file that a user brought (.jsonl, .json, .csv, .tsv, each also with .gz, or .parquet). Leaves: its rows as
objects, each with its place in the file for error messages. JSON lines and parquet are streamed in constant memory.
A file of another name may hold a JSON list or JSON lines, as many downloads that end in .json do. Parquet needs pyarrow
(the extra `parquet`).
"""

import gzip
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, NamedTuple, cast

from masksearch_jax.evals import question_files as files
from masksearch_jax.runtime.json_files import parse_json
from masksearch_jax.runtime.types import Json, JsonObject

LINES = (".jsonl", ".jsonl.gz")
JSON = (".json", ".json.gz")
PARQUET = (".parquet",)
TABLES = {".csv": ",", ".csv.gz": ",", ".tsv": "\t", ".tsv.gz": "\t"}

_LONGEST_LINE = 1 << 26  # bytes; a longer one is no line of a corpus, and would have to fit in memory
_PARQUET_ROWS = 256  # rows that are held at a time
_SAID_EVERY = 256  # rows between two calls of `read_bytes`


class Row(NamedTuple):
    """A row of a file.

    where: 'FILE, line N' (from 1), 'FILE, row N' of parquet (from 1) or 'FILE, entry N' of a list or table (from 0).
    """

    where: str
    entry: JsonObject


def raise_error(error: ValueError) -> None:
    raise error


def nothing(count: int) -> None:
    """Do nothing with a number of bytes."""


def read_rows(
    path: Path | str,
    source: str,
    bad: Callable[[ValueError], None] = raise_error,
    read_bytes: Callable[[int], None] = nothing,
) -> Iterator[Row]:
    """Yield the rows of a file in order.

    source: what the file should hold, or where to get it; it ends the messages about a bad file. bad: called with the
    error of a line that is no JSON object; by default it raises. read_bytes: called now and then with the number of
    bytes of the file that were read so far.

    Raises FileNotFoundError, and ValueError that names the file and the line for a file that cannot be read any
    further.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; {source}")
    name = path.name.lower()
    if name.endswith(PARQUET):
        return _parquet(path, source, read_bytes)
    if name.endswith(LINES) or holds_lines(path):
        return _lines(path, source, bad, read_bytes)
    return map(Row._make, files.numbered(path, files.read_json(path, source)))


def read_table(path: Path | str, source: str, columns: tuple[str, ...]) -> Iterator[Row]:
    """Yield the rows of a CSV or TSV file that has all of `columns`, as question_files.read_table reads it."""
    ending = next(ending for ending in TABLES if Path(path).name.lower().endswith(ending))
    rows: list[Json] = [*files.read_table(Path(path), source, columns, TABLES[ending])]
    return map(Row._make, files.numbered(path, rows))


def is_table(path: Path | str) -> bool:
    return Path(path).name.lower().endswith(tuple(TABLES))


def _open(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def holds_lines(path: Path) -> bool:
    """Return True if the first line of a file is a whole JSON object, and another line follows it."""
    try:
        with _open(path) as file:
            first, second = file.readline(_LONGEST_LINE), file.readline(_LONGEST_LINE)
        return bool(second.strip()) and isinstance(parse_json(first), dict)
    except (OSError, EOFError, zlib.error, ValueError):
        return False  # the reader of the whole file says what is wrong


def holds_object(path: Path) -> bool:
    """Return True if a file of JSON begins with an object and not with a list."""
    try:
        with _open(path) as file:
            return file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{")
    except (OSError, EOFError, zlib.error):
        return False


def _lines(
    path: Path, source: str, bad: Callable[[ValueError], None], read_bytes: Callable[[int], None]
) -> Iterator[Row]:
    number, found = 0, False
    with _open(path) as file:
        compressed = getattr(file, "fileobj", None) or file  # gzip reads from a file of its own
        while True:
            try:
                line = file.readline(_LONGEST_LINE + 1)
            except (OSError, EOFError, zlib.error) as error:
                raise ValueError(
                    f"{path} is not a readable file after line {number} ({error}); fetch it again; {source}"
                ) from error
            if not line:
                break
            number += 1
            where = f"{path}, line {number}"
            if len(line) > _LONGEST_LINE:
                raise ValueError(f"{where}: longer than {_LONGEST_LINE >> 20} MiB: these are no JSON lines; {source}")
            if number % _SAID_EVERY == 0:
                read_bytes(compressed.tell())
            if not line.strip():
                continue
            found = True
            try:
                entry = parse_json(line)
            except ValueError as error:
                bad(ValueError(f"{where}: not a line of JSON: it {error}; {source}"))
                continue
            if not isinstance(entry, dict):
                bad(ValueError(f"{where}: expected an object, got {type(entry).__name__}; {source}"))
                continue
            yield Row(where, entry)
        read_bytes(compressed.tell())
    if not found:
        raise ValueError(f"{path} is empty; {source}")


def _parquet(path: Path, source: str, read_bytes: Callable[[int], None]) -> Iterator[Row]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise ValueError(
            f"{path}: parquet needs pyarrow ({error}): pip install -c launch/constraints.txt -e '.[parquet]', or "
            "write the rows as JSON lines"
        ) from None
    size, number = path.stat().st_size, 0
    try:
        with parquet.ParquetFile(path) as file:
            total = file.metadata.num_rows
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
                for entry in batch.to_pylist():
                    number += 1
                    yield Row(f"{path}, row {number}", entry)
                read_bytes(size * number // total)
    except (ArrowException, OSError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} is not readable parquet after row {number} ({said}); {source}") from error
    if not number:
        raise ValueError(f"{path} has no rows; {source}")
