"""The schema of the files that preparation writes and that training, rollouts and evaluation read. No TensorFlow here.

Every record is one msgpack map in an ArrayRecord file, and a dataclass names its fields. The files of one export are
listed, with counts and hashes, in the `manifest.json` beside them. A path `name.array_record` stands for one file or
for its shards `name-00000-of-00032.array_record` .. in order; everything here that reads a path accepts both.
"""

import bisect
import contextlib
import dataclasses
import errno
import functools
import itertools
import os
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import msgpack
from array_record.python import array_record_module

from masksearch_jax.data import curriculum
from masksearch_jax.runtime.types import Json

# With one record per group, random access to a record costs one read.
_WRITER_OPTIONS = "group_size:1,zstd:3"
_READ_CHUNK = 1024
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})$")


@dataclasses.dataclass(frozen=True)
class Task:
    """One thing to solve.

    kind: 'ramp' (a masked passage), 'qa' (a question), 'tool_warmup' (a tool warm-up task) or 'ramp_open' (a masked
    passage whose source the search may return).
    prompt: token ids of the whole prompt, as tokenised by the SeqIO task; the policy continues it.
    answer_form: 'spans' (filled spans joined by '; '), 'paragraph' (the official whole paragraph) or 'whole' (the whole
    text is the one answer, for a question).
    answers: for each span in reading order (one entry for a question), the accepted strings, the gold one first.
    span_kinds: kind of each span ('link', 'date', 'number', 'name', 'category', 'rare'; 'answer' for a question,
    'quote' for a tool warm-up task).
    text: the masked passage or the question, readable. paragraph: the unmasked passage ('' for a question).
    passage_id, article_id: where the text was cut from, so that search can exclude it; -1 if nothing is excluded.
    targets: token ids of the answer in the form `answer_form`.
    supporting: titles of the articles that a question is based on, none for a masked passage; only a teacher reads it.
    benchmark: name of the benchmark that a question is from, '' for all other tasks; scoring/benchmark_metrics.py
    scores the question by the rules of its benchmark. reference: the benchmark's structured answer as a JSON value,
    None if it has none. details: what the benchmark says about the question.
    """

    id: str
    kind: str
    split: str
    prompt: list[int]
    targets: list[int]
    answer_form: str
    answers: list[list[str]]
    span_kinds: list[str]
    text: str
    paragraph: str
    title: str
    passage_id: int
    article_id: int
    supporting: list[str] = dataclasses.field(default_factory=list)
    benchmark: str = ""
    reference: Json = None
    details: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def masks(self) -> int:
        """The number of spans to fill, counted from `answers` and not the number that was drawn."""
        return len(self.answers)

    @property
    def task_name(self) -> str:
        """The name of the task in curricula, folders and scores, such as 'ramp_2' or 'qa'."""
        return task_name(self.kind, self.masks)

    @property
    def stream_id(self) -> int:
        """The integer that stands for the task in the keys of random draws (`curriculum.stream_id`)."""
        return curriculum.stream_id(self.task_name)

    def as_task(self, name: str) -> "Task":
        """Return the record as the task `name` uses it.

        'ramp_1_open' reads the records of 'ramp_1' and lets the search return their source, so the ids to exclude
        become -1. All other tasks use their records as they are.
        """
        if name != curriculum.SOURCE_ALLOWED:
            return self
        return dataclasses.replace(self, kind="ramp_open", passage_id=-1, article_id=-1)


def task_name(kind: str, masks: int) -> str:
    """Return the name of the task that a record of this kind with this many masks belongs to."""
    return {"ramp": f"ramp_{masks}", "ramp_open": curriculum.SOURCE_ALLOWED}.get(kind, kind)


def masks_of(name: str) -> int:
    """Return k for the name 'ramp_<k>', 0 for every other name."""
    masks = name.removeprefix("ramp_")
    return int(masks) if masks != name and masks.isdigit() else 0


@dataclasses.dataclass(frozen=True)
class Demonstration:
    """One accepted trajectory as token ids, ready for supervised training.

    ids: prompt and all turns. trainable: for each id, 1 where the policy wrote it and 0 elsewhere.
    """

    id: str
    task_id: str
    masks: int
    ids: list[int]
    trainable: list[int]
    searches: int
    recall: float


@dataclasses.dataclass(frozen=True)
class Passage:
    """A passage of about 100 words of one article. The ids count from 0 without gaps, in the order of the dump."""

    id: int
    article_id: int
    title: str
    text: str
    split: str


Record = TypeVar("Record", Task, Demonstration, Passage)


def encode(record: Task | Demonstration | Passage) -> bytes:
    """Return the msgpack bytes of a record dataclass."""
    # Fields are plain values; dataclasses.asdict would copy every token id and take ten times as long.
    data: bytes = msgpack.packb(vars(record), use_bin_type=True)
    return data


def decode(cls: type[Record], data: bytes) -> Record:
    """Return the record of class `cls`. Raises ValueError that names the fields if some are missing or unknown.

    Fields with a default may be missing, because they were added after some data that is still valid.
    """
    fields = msgpack.unpackb(data, raw=False)
    names, needed = _field_names(cls)  # type: ignore[arg-type]  # a class has a hash, if its instances have none
    if not needed <= fields.keys() <= names:
        raise ValueError(
            f"a {cls.__name__} record has fields {sorted(fields)}, this version reads {sorted(names)}; "
            "prepare the data again with `python -m masksearch_jax.prepare`"
        )
    return cls(**fields)


@functools.cache
def _field_names(cls: type) -> tuple[frozenset[str], frozenset[str]]:
    """Return (names of all fields, names of those without a default)."""
    fields, missing = dataclasses.fields(cls), dataclasses.MISSING
    needed = (f.name for f in fields if f.default is missing and f.default_factory is missing)
    return frozenset(f.name for f in fields), frozenset(needed)


def write(path: Path | str, records: Iterable[Task | Demonstration | Passage]) -> int:
    """Write records to one ArrayRecord file, atomically by a temporary name and a rename. Returns their count.

    Raises OSError that names the file if it cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with _file_errors(partial):
        writer = array_record_module.ArrayRecordWriter(str(partial), _WRITER_OPTIONS)
    count = 0
    try:
        for record in records:
            with _file_errors(partial):
                writer.write(encode(record))
            count += 1
    finally:
        with _file_errors(partial):
            writer.close()
    partial.rename(path)
    return count


@contextlib.contextmanager
def _file_errors(path: Path) -> Iterator[None]:
    """Raise what array_record raises, a RuntimeError whatever happened, as an OSError about `path`."""
    try:
        yield
    except RuntimeError as error:
        full = next((code for code in (errno.ENOSPC, errno.EDQUOT) if os.strerror(code) in str(error)), None)
        if full is None:
            raise OSError(f"{path}: {error}") from error
        raise OSError(full, os.strerror(full), str(path)) from error


def shard(path: Path | str, index: int, count: int) -> Path:
    """Return the path of shard `index` of `count` of a file."""
    path = Path(path)
    return path.with_name(f"{path.stem}-{index:05d}-of-{count:05d}{path.suffix}")


def unsharded(path: Path | str) -> Path:
    """Return the path without the number of a shard; it stands for the file and for all its shards."""
    path = Path(path)
    return path.with_name(_SHARD.sub("", path.stem) + path.suffix)


def files(path: Path | str) -> list[Path]:
    """Return the file `path`, or its shards in order.

    Raises FileNotFoundError that names the file if neither exists, or if a shard is missing.
    """
    path = Path(path)
    if path.exists():
        return [path]
    found = [one for one in path.parent.glob(f"{path.stem}-*{path.suffix}") if unsharded(one) == path]
    if not found:
        raise FileNotFoundError(f"{path} does not exist; prepare it with `python -m masksearch_jax.prepare`")
    counts = {int(match[2]) for one in found if (match := _SHARD.search(one.stem))}
    wanted = [shard(path, index, max(counts)) for index in range(max(counts))]
    if len(counts) > 1 or sorted(found) != wanted:
        missing = [one.name for one in wanted if one not in found]
        raise FileNotFoundError(
            f"{path}: {len(found)} of its shards are there, of {sorted(counts)}; missing: {missing[:3]}; "
            "prepare the data again with `python -m masksearch_jax.prepare`"
        )
    return wanted


def read(path: Path | str, cls: type[Record]) -> Iterator[Record]:
    """Yield the records of one file, or of its shards, in order.

    Raises FileNotFoundError that names a missing file, and ValueError that names a damaged one.
    """
    for file in files(path):
        reader = open_file(file)
        try:
            total = reader.num_records()
            for start in range(0, total, _READ_CHUNK):
                end = min(start + _READ_CHUNK, total)
                try:
                    chunk = reader.read(start, end)
                except (RuntimeError, ValueError, IndexError) as error:
                    raise damaged(file, f"one of the records {start} to {end - 1}", error) from error
                for number, data in enumerate(chunk, start):
                    yield _decoded(cls, data, file, number)
        finally:
            close(reader)


def open_file(file: Path | str) -> array_record_module.ArrayRecordReader:
    """Return a reader of one ArrayRecord file. Raises ValueError for a file that is truncated or no ArrayRecord."""
    reader = array_record_module.ArrayRecordReader(str(file))
    if reader.ok():
        return reader
    try:  # without this it would read as a file of no records
        reader.close()
        raise RuntimeError("it is cut, or no ArrayRecord")
    except RuntimeError as error:
        raise damaged(file, "its end, which says where the records are", error) from error


def close(reader: array_record_module.ArrayRecordReader) -> None:
    """Close a reader. An error at this point was already raised when the damaged part was read."""
    with contextlib.suppress(RuntimeError):
        reader.close()


def damaged(file: Path | str, what: str, error: Exception) -> ValueError:
    """Return the error for a file whose part `what` cannot be read. It names the file and the command to remake it."""
    folder = Path(file).parent.name
    command = "synthesize" if folder == "demonstrations" else "prepare"
    said = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    return ValueError(
        f"{file}: {what} cannot be read ({said}); copy the file again, or remove its folder "
        f"and make it again with `python -m masksearch_jax.{command}`"
    )


def _decoded(cls: type[Record], data: bytes, file: Path | str, number: int) -> Record:
    try:
        return decode(cls, data)
    except Exception as error:  # msgpack raises errors of many types
        raise damaged(file, f"record {number}", error) from error


class RandomAccess(Generic[Record]):
    """Random access by position to the records of one file, or of its shards, read from disk on demand.

    It is thread-safe. `len` is the number of records.
    """

    def __init__(self, path: Path | str, cls: type[Record]):
        """Open the file or its shards. Raises FileNotFoundError for a missing file and ValueError for a damaged one."""
        self._cls: type[Record] = cls
        self._lock = threading.Lock()
        self._files = files(path)
        self._readers = [open_file(file) for file in self._files]
        self._ends: list[int] = list(itertools.accumulate(reader.num_records() for reader in self._readers))

    def __len__(self) -> int:
        return self._ends[-1]

    def get(self, positions: Sequence[int]) -> list[Record]:
        """Return the records at `positions`, in that order."""
        if not positions:
            return []
        by_file: dict[int, list[int]] = {}  # number of the file -> indices into `positions`
        for place, position in enumerate(positions):
            by_file.setdefault(bisect.bisect_right(self._ends, position), []).append(place)
        found: list[tuple[bytes, Path, int]] = [(b"", Path(), 0)] * len(positions)
        with self._lock:
            for number, places in by_file.items():
                first = self._ends[number - 1] if number else 0
                wanted = [int(positions[place]) - first for place in places]
                try:
                    data = self._readers[number].read(wanted)
                except (RuntimeError, ValueError, IndexError) as error:
                    raise damaged(self._files[number], f"one of the records {wanted[:8]}", error) from error
                for place, one, position in zip(places, data, wanted, strict=True):
                    found[place] = one, self._files[number], position
        return [_decoded(self._cls, *one) for one in found]
