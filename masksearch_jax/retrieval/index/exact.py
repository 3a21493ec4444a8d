"""Exact inner-product search in numpy: the reference for recall, the fallback of exclusion, and an index by itself.

Enters: vectors float32 [N, D] of unit norm (an array or a memory map) and queries float32 [Q, D]. Leaves: rows int64
[Q, k] and scores float32 [Q, k], best first, equal scores by lower row; -1 and -inf where there are fewer than k. As an
index by itself it suits a small corpus. A row of the result depends on its query alone, never on the rest of the batch:
the matrix product, whose last bits depend on shapes, only selects candidates, which `rescore` then orders. Left out:
other metrics.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

# Far above the rounding of a float32 product of unit vectors, so that candidates contain every true top-k row.
_ROUNDING = 1e-5
_SCORES_AT_ONCE = 1 << 23
_RESCORED_AT_ONCE = 1 << 8  # candidates at a time, so that their products stay in the cache of a core
VECTORS_FILE = "vectors.npy"


def rescore(vectors: np.ndarray, query: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (rows, scores float32), ordered by score, then row; bits depend on the query and the row's vector only.

    Sums in float64 over the last axis, without BLAS, whose result varies with the number of rows.
    """
    scores = (vectors[rows] * query.astype(np.float64)).sum(axis=1).astype(np.float32)
    order = np.lexsort((rows, -scores))
    return rows[order], scores[order]


def rescore_each(
    vectors: np.ndarray, queries: np.ndarray, rows: np.ndarray, of: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k best rows of each query, bit for bit as `rescore` does, without a Python step for each query.

    rows: int64 [M], candidates of all queries. of: int64 [M], the query of each candidate. Returns (rows int64 [Q, k],
    scores float32 [Q, k]), -1 and -inf where a query has fewer.
    """
    wide = queries.astype(np.float64)
    scores = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), _RESCORED_AT_ONCE):
        part = slice(start, start + _RESCORED_AT_ONCE)
        scores[part] = (vectors[rows[part]] * wide[of[part]]).sum(axis=1)
    order = np.lexsort((rows, -scores, of))
    rows, scores, of = rows[order], scores[order], of[order]
    counts = np.bincount(of, minlength=len(queries))
    rank = np.arange(len(rows)) - (np.cumsum(counts) - counts)[of]
    kept = rank < k
    found = np.full((len(queries), k), -1, np.int64)
    best = np.full((len(queries), k), -np.inf, np.float32)
    found[of[kept], rank[kept]], best[of[kept], rank[kept]] = rows[kept], scores[kept]
    return found, best


class ExactSearcher:
    """Exact search; holds the vectors and nothing else; thread-safe."""

    def __init__(self, vectors: np.ndarray):
        if vectors.ndim != 2 or vectors.dtype != np.float32:
            raise ValueError(f"vectors must be float32 [N, D], got {vectors.dtype} {vectors.shape}")
        self.vectors = vectors

    @classmethod
    def build(cls, vectors: np.ndarray, directory: Path | str) -> "ExactSearcher":
        """Save float32 [N, D] into `directory` (made if missing) and return the searcher."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        np.save(directory / VECTORS_FILE, vectors)
        return cls(vectors)

    @classmethod
    def load(cls, directory: Path | str) -> "ExactSearcher":
        """Return the searcher that `build` saved, with its vectors mapped from disk."""
        # A plain array over the map, because numpy.memmap runs Python code at each index and each product.
        return cls(np.asarray(np.load(Path(directory) / VECTORS_FILE, mmap_mode="r")))

    def search(
        self, queries: np.ndarray, k: int, exclude: Sequence[np.ndarray | None] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return (rows int64 [Q, k], scores float32 [Q, k]). exclude: for each query, rows that must not appear."""
        count, dims = self.vectors.shape
        if queries.ndim != 2 or queries.shape[1] != dims:
            raise ValueError(f"queries must be [Q, {dims}] like the vectors, got {queries.shape}")
        best = [(np.empty(0, np.int64), np.empty(0, np.float32))] * len(queries)
        step = max(1, _SCORES_AT_ONCE // max(1, len(queries)))
        for start in range(0, count, step):
            block = self.vectors[start : start + step]
            scores = queries @ block.T
            if exclude is not None:
                _mask(scores, start, exclude)
            for i, candidates in enumerate(_candidates(scores, k)):
                rows, found = rescore(block, queries[i], candidates)
                best[i] = _merge(best[i], (rows + start, found), k)
        return _pad(best, k)


def _mask(scores: np.ndarray, start: int, exclude: Sequence[np.ndarray | None]) -> None:
    for i, rows in enumerate(exclude):
        if rows is not None and len(rows):
            local = np.asarray(rows) - start
            scores[i, local[(local >= 0) & (local < scores.shape[1])]] = -np.inf


def _candidates(scores: np.ndarray, k: int) -> list[np.ndarray]:
    """Return for each row of scores [Q, n] the columns that can be among the true top k, rounding allowed for."""
    width = scores.shape[1]
    if k >= width:
        least: np.ndarray = np.full(len(scores), np.finfo(np.float32).min, np.float32)
    else:
        least = np.partition(scores, width - k, axis=1)[:, width - k] - _ROUNDING
        least = np.maximum(least, np.finfo(np.float32).min)  # -inf marks excluded rows
    return [np.flatnonzero(row >= limit) for row, limit in zip(scores, least, strict=True)]


def _merge(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray], k: int) -> tuple[np.ndarray, np.ndarray]:
    rows, scores = np.concatenate([a[0], b[0]]), np.concatenate([a[1], b[1]])
    order = np.lexsort((rows, -scores))[:k]
    return rows[order], scores[order]


def _pad(best: list[tuple[np.ndarray, np.ndarray]], k: int) -> tuple[np.ndarray, np.ndarray]:
    rows = np.full((len(best), k), -1, np.int64)
    scores = np.full((len(best), k), -np.inf, np.float32)
    for i, (r, s) in enumerate(best):
        rows[i, : len(r)], scores[i, : len(s)] = r, s
    return rows, scores
