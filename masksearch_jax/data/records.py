"""On-disk schema: what prep writes and training, rollouts and evaluation read. No TensorFlow here.

Every record is one msgpack map in an ArrayRecord file; a dataclass names its fields. Files of one export are
listed, with counts and hashes, in the `manifest.json` beside them. `name.array_record` stands for one file, or for its
shards `name-00000-of-00032.array_record` .. in their order: what reads a path here reads either.
"""

import bisect
import contextlib
import dataclasses
import functools
import itertools
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgpack
from array_record.python import array_record_module

# Random access to any record costs one read when every record is its own group.
_WRITER_OPTIONS = "group_size:1,zstd:3"
_READ_CHUNK = 1024
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})$")


@dataclasses.dataclass(frozen=True)
class Task:
    """One thing to solve: a masked passage (`kind='ramp'`), a question (`kind='qa'`), a lookup (`kind='lookup'`) or a
    masked passage whose source the search may return (`kind='open'`).

    prompt: token ids of the whole prompt, as tokenised by the SeqIO task; the policy continues it.
    answer_form: 'spans' (filled spans joined by '; '), 'paragraph' (the official whole paragraph) or 'whole' (all of it
    is the one answer: a question's).
    answers: for each span in reading order (one entry for a question), the accepted strings, the gold one first.
    span_kinds: kind of each span ('link', 'date', 'number', 'name', 'category', 'rare'; 'answer' for a question).
    text: the masked passage or the question, readable. paragraph: the unmasked passage ('' for a question).
    passage_id, article_id: where the text was cut from, so that search can exclude it; -1 for a question.
    targets: token ids of the answer in the form `answer_form`.
    supporting: titles of the articles that a question rests on, none for a masked passage; only a teacher reads it.
    benchmark: name of the benchmark that a question is from, '' for all else; text/official.py scores it by its rules.
    reference: its structured answer as a JSON value, None where it has none. details: what it says of the question.
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
    reference: Any = None
    details: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def masks(self) -> int:
        """Number of spans to fill (recounted, never as drawn)."""
        return len(self.answers)

    @property
    def level(self) -> int:
        """The level of the curriculum: the number of masks, 0 for a question, -1 for a lookup, -2 for an open one."""
        return {"qa": 0, "lookup": -1, "open": -2}.get(self.kind, self.masks)

    def at(self, level: int) -> "Task":
        """The task as a level wants it, of the records that the level is read from: for -2 with no source to leave
        out."""
        return dataclasses.replace(self, kind="open", passage_id=-1, article_id=-1) if level == -2 else self


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
    """About 100 words of one article; `id` is dense from 0 in the order of the dump."""

    id: int
    article_id: int
    title: str
    text: str
    split: str


Record = TypeVar("Record", Task, Demonstration, Passage)


def encode(record: Any) -> bytes:
    """Returns the msgpack bytes of a record dataclass."""
    # Fields are plain values; dataclasses.asdict would copy every token id and take ten times as long.
    return msgpack.packb(vars(record), use_bin_type=True)


def decode(cls: type[Record], data: bytes) -> Record:
    """Returns the record of class `cls`; raises ValueError that names missing or surplus fields.

    Fields with a default may be missing: they are younger than some data that is still good.
    """
    fields = msgpack.unpackb(data, raw=False)
    names, needed = _field_names(cls)
    if not needed <= fields.keys() <= names:
        raise ValueError(
            f"a {cls.__name__} record has fields {sorted(fields)}, this version reads {sorted(names)}; "
            "prepare the data again with `python -m masksearch_jax.prepare`"
        )
    return cls(**fields)


@functools.cache
def _field_names(cls: type) -> tuple[frozenset[str], frozenset[str]]:
    """(all fields, those without a default)."""
    fields, missing = dataclasses.fields(cls), dataclasses.MISSING
    needed = (f.name for f in fields if f.default is missing and f.default_factory is missing)
    return frozenset(f.name for f in fields), frozenset(needed)


def write(path: Path | str, records: Iterable[Any]) -> int:
    """Writes records to one ArrayRecord file (atomically: a temporary name, then a rename); returns their count."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    writer = array_record_module.ArrayRecordWriter(str(partial), _WRITER_OPTIONS)
    count = 0
    try:
        for record in records:
            writer.write(encode(record))
            count += 1
    finally:
        writer.close()
    partial.rename(path)
    return count


def shard(path: Path | str, index: int, count: int) -> Path:
    """Returns the path of shard `index` of `count` of a file."""
    path = Path(path)
    return path.with_name(f"{path.stem}-{index:05d}-of-{count:05d}{path.suffix}")


def unsharded(path: Path | str) -> Path:
    """Returns the path that stands for a file and its shards alike: without the number of a shard."""
    path = Path(path)
    return path.with_name(_SHARD.sub("", path.stem) + path.suffix)


def files(path: Path | str) -> list[Path]:
    """Returns the file `path`, or its shards in order.

    Raises FileNotFoundError that names the file if there are neither, or if a shard is missing.
    """
    path = Path(path)
    if path.exists():
        return [path]
    found = [one for one in path.parent.glob(f"{path.stem}-*{path.suffix}") if unsharded(one) == path]
    if not found:
        raise FileNotFoundError(f"{path} does not exist; prepare it with `python -m masksearch_jax.prepare`")
    counts = {int(_SHARD.search(one.stem)[2]) for one in found}
    wanted = [shard(path, index, max(counts)) for index in range(max(counts))]
    if len(counts) > 1 or sorted(found) != wanted:
        missing = [one.name for one in wanted if one not in found]
        raise FileNotFoundError(
            f"{path}: {len(found)} of its shards are there, of {sorted(counts)}; missing: {missing[:3]}; "
            "prepare the data again with `python -m masksearch_jax.prepare`"
        )
    return wanted


def read(path: Path | str, cls: type[Record]) -> Iterator[Record]:
    """Yields the records of one file, or of its shards, in order; raises FileNotFoundError that names the file."""
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


def open_file(file: Path | str) -> Any:
    """Returns a reader of one ArrayRecord file; raises ValueError that names one that is none, or is cut."""
    reader = array_record_module.ArrayRecordReader(str(file))
    if reader.ok():
        return reader
    try:  # it would count as a file of no records
        reader.close()
        raise RuntimeError("it is cut, or no ArrayRecord")
    except RuntimeError as error:
        raise damaged(file, "its end, which says where the records are", error) from error


def close(reader: Any) -> None:
    """Closes a reader; what it complains of then was raised when it was met."""
    with contextlib.suppress(RuntimeError):
        reader.close()


def damaged(file: Path | str, what: str, error: Exception) -> ValueError:
    """Returns the error for a file of which `what` cannot be read: its name, and the command that makes it again."""
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
    except Exception as error:  # msgpack has many
        raise damaged(file, f"record {number}", error) from error


class RandomAccess:
    """Records of one file, or of its shards, by position, read from disk on demand. Thread-safe. `len` is the number of
    records."""

    def __init__(self, path: Path | str, cls: type[Record]):
        """Raises FileNotFoundError that names the file."""
        self._cls = cls
        self._lock = threading.Lock()
        self._files = files(path)
        self._readers = [open_file(file) for file in self._files]
        self._ends = list(itertools.accumulate(reader.num_records() for reader in self._readers))

    def __len__(self) -> int:
        return self._ends[-1]

    def get(self, positions: Sequence[int]) -> list[Record]:
        """Returns the records in the order asked for."""
        if not positions:
            return []
        by_file: dict[int, list[int]] = {}  # file: places in `positions`
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
