"""Find passages that repeat one another: a copy in the index would give a RAMP task its answer.

Enters: the passages of an index, in row order. Leaves: for each row, the rows that share with it at least `threshold`
of the shingles (runs of five words) of the shorter of the two. This does not depend on the encoder and takes linear
time in the corpus; comparing all pairs of vectors would take quadratic time. Facts restated in other words are no
duplicates: finding those is the task. Left out: passages that only share boilerplate, which is shingles found in over
`_COMMON` passages.

MinHash estimates Jaccard similarity, which is small for a short passage within a long one, so it finds less. Of the 204
pairs at a threshold of 0.5 in 6,119 passages of 2WikiMultiHopQA, MinHashLSH of datasketch 2.0.0 (128 permutations)
loses 124, and 13 at a threshold of 0.1; its MinHashLSHEnsemble, made for containment, loses 17.
"""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from masksearch_jax.retrieval.passage_store import Passages
from masksearch_jax.text.shingles import shingles_of

_COMMON = 200
_SHINGLES_AT_ONCE = 50_000_000  # 16 bytes each
_WORDS_OF_A_PASSAGE = 100  # only decides the number of parts


@dataclasses.dataclass(frozen=True)
class NearDuplicates:
    """Lists in one flat array: that of row i is rows[starts[i]:starts[i + 1]], ascending, without i itself."""

    starts: np.ndarray  # int64 [N + 1]
    rows: np.ndarray  # int64 [sum of list lengths]

    def of(self, row: int) -> np.ndarray:
        """Return int64 [m], the near-duplicates of a row."""
        return self.rows[self.starts[row] : self.starts[row + 1]]

    @property
    def passages(self) -> int:
        """The number of rows with at least one near-duplicate."""
        return int((np.diff(self.starts) > 0).sum())

    def save(self, path: Path | str) -> None:
        np.savez(path, starts=self.starts, rows=self.rows)

    @classmethod
    def load(cls, path: Path | str) -> "NearDuplicates":
        with np.load(path) as stored:
            return cls(stored["starts"], stored["rows"])


def find(passages: Passages, threshold: float, progress: Callable[[int, int], None]) -> NearDuplicates:
    """Return the near-duplicates among `passages`, which are read once for each 50 million shingles."""
    count = len(passages)
    parts = 1 + count * _WORDS_OF_A_PASSAGE // _SHINGLES_AT_ONCE
    sizes = np.zeros(count, np.int64)  # shingles that are not boilerplate
    pairs, shared = [], []
    for part in range(parts):
        shingles, rows = _part(passages, part, parts, progress)
        keep = _run_lengths(shingles) <= _COMMON
        shingles, rows = shingles[keep], rows[keep]
        sizes += np.bincount(rows, minlength=count)
        for pair in _pairs(shingles, rows, count):
            unique, counts = np.unique(pair, return_counts=True)
            pairs.append(unique)
            shared.append(counts)
    if not pairs:
        return NearDuplicates(np.zeros(count + 1, np.int64), np.empty(0, np.int64))
    unique, inverse = np.unique(np.concatenate(pairs), return_inverse=True)
    common = np.bincount(inverse, np.concatenate(shared))
    left, right = unique // count, unique % count
    near = common >= threshold * np.minimum(sizes[left], sizes[right])
    return _lists(left[near], right[near], count)


def _part(
    passages: Passages, part: int, parts: int, progress: Callable[[int, int], None]
) -> tuple[np.ndarray, np.ndarray]:
    """Return (shingle uint64 [m], row int64 [m]) of one part of the hash space, distinct and sorted by both."""
    hashes, rows = [], []
    for row, passage in enumerate(passages):
        found = shingles_of(passage.text)
        found = found[found % np.uint64(parts) == part]
        hashes.append(found)
        rows.append(np.full(len(found), row, np.int64))
        if row % 1000 == 999 or row + 1 == len(passages):
            progress(part * len(passages) + row + 1, parts * len(passages))
    shingle, row_of = np.concatenate(hashes), np.concatenate(rows)
    order = np.lexsort((row_of, shingle))
    return shingle[order], row_of[order]


def _run_lengths(values: np.ndarray) -> np.ndarray:
    """Return for each entry of a sorted array how often its value occurs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return counts[inverse]


def _pairs(shingles: np.ndarray, rows: np.ndarray, count: int) -> Iterator[np.ndarray]:
    """Yield left * count + right (left < right) for rows that share a shingle, once for each shingle."""
    repeated = _run_lengths(shingles) > 1
    shingles, rows = shingles[repeated], rows[repeated]
    for distance in range(1, _COMMON):
        same = shingles[distance:] == shingles[:-distance]
        if not same.any():
            return
        yield rows[:-distance][same] * count + rows[distance:][same]


def _lists(left: np.ndarray, right: np.ndarray, count: int) -> NearDuplicates:
    source, target = np.concatenate([left, right]), np.concatenate([right, left])
    order = np.lexsort((target, source))
    starts = np.zeros(count + 1, np.int64)
    np.cumsum(np.bincount(source, minlength=count), out=starts[1:])
    return NearDuplicates(starts, target[order])
