"""The passage store: passages by id, from the ArrayRecord file that `prepare` wrote.

Enters: the path of `passages.array_record` (records.Passage, id = position; one file or its shards). Leaves: passages,
in order or by id, either kept decoded in memory or read at random from disk. Left out: search, and writing (prep does
that).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from masksearch_jax.data import records
from masksearch_jax.data.records import Passage

# A decoded passage takes about three times its bytes on disk.
_IN_MEMORY_UNDER = 256 << 20


class Passages(Protocol):
    """Passages that can be counted, and read from the first to the last any number of times."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Passage]: ...


class PassageStore:
    """Passages by id. Thread-safe. Iterates in order of id; `len` is the number of passages."""

    def __init__(self, path: Path | str, in_memory: bool | None = None):
        """in_memory: None keeps files under 256 MB in memory and reads larger ones at random from disk."""
        self.path = Path(path)
        self._file = records.RandomAccess(self.path, Passage)
        if in_memory is None:
            in_memory = sum(file.stat().st_size for file in records.files(self.path)) < _IN_MEMORY_UNDER
        self._passages = list(records.read(self.path, Passage)) if in_memory else None

    def __len__(self) -> int:
        return len(self._file)

    def __iter__(self) -> Iterator[Passage]:
        return iter(self._passages) if self._passages is not None else records.read(self.path, Passage)

    def __getitem__(self, passage_id: int) -> Passage:
        return self.get([passage_id])[0]

    def get(self, passage_ids: Sequence[int]) -> list[Passage]:
        """Return the passages in the order of the ids; raise IndexError for an id that the store does not have."""
        for passage_id in passage_ids:
            if not 0 <= passage_id < len(self):
                raise IndexError(f"{self.path} has passages 0 to {len(self) - 1}, asked for {passage_id}")
        if self._passages is not None:
            found = [self._passages[passage_id] for passage_id in passage_ids]
        else:
            found = self._file.get(passage_ids)
        for passage_id, passage in zip(passage_ids, found, strict=True):
            if passage.id != passage_id:
                raise ValueError(
                    f"{self.path}: position {passage_id} holds passage {passage.id}; ids must equal positions; "
                    "prepare the data again with `python -m masksearch_jax.prepare`"
                )
        return found
