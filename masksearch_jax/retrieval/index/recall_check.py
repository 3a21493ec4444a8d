"""How much of exact search's results an index finds, measured on probes cut from the passages themselves.

Enters: an index, its vectors, queries. Leaves: recall@k. A probe is a run of words from inside a passage, because that
is closer to a query than a whole passage is. Left out: judged relevance (benchmarks measure that).
"""

import hashlib

import numpy as np

from masksearch_jax.retrieval.index import exact
from masksearch_jax.retrieval.passage_store import Passages

PROBES = 256
K = 10
_PROBE_WORDS = 8
_TIE = 1e-6


def probes(passages: Passages, count: int = PROBES) -> list[str]:
    """Return `count` (or fewer) probes from evenly spaced passages, cut at a place that a hash of the id decides."""
    wanted = set(np.linspace(0, len(passages) - 1, min(count, len(passages))).astype(int).tolist())
    found = []
    for row, passage in enumerate(passages):
        if row in wanted:
            words = passage.text.split()
            draw = int.from_bytes(hashlib.blake2b(str(passage.id).encode(), digest_size=4).digest(), "little")
            start = draw % max(1, len(words) - _PROBE_WORDS + 1)
            found.append(" ".join(words[start : start + _PROBE_WORDS]))
    return found


class Truth:
    """The results of exact search for some queries, searched once. queries: float32 [Q, D], those that are not zero."""

    def __init__(self, vectors: np.ndarray, queries: np.ndarray, k: int = K):
        """Raise ValueError if all queries are zero."""
        self.k = min(k, len(vectors))
        self.queries = queries[np.abs(queries).max(axis=1, initial=0) > 0]
        if not len(self.queries):
            raise ValueError("no probe has a word that the encoder knows; are the passages empty?")
        _, scores = exact.ExactSearcher(vectors).search(self.queries, self.k)
        self._least = scores[:, -1:] - _TIE

    def shares(self, index) -> np.ndarray:
        """Return float [Q]: the share of the exact top k that `index` finds for each query; ties count as found."""
        _, found = index.search(self.queries, self.k)
        return (found >= self._least).mean(axis=1)

    def measure(self, index) -> float:
        """Return the mean of `shares`."""
        return float(self.shares(index).mean())
