"""How much of exact search an index finds, measured on probes cut from the passages themselves.

Enters: an index, its vectors and encoder. Leaves: recall@k. A probe is a run of words from inside a passage, which
is closer to a query than a whole passage is. Left out: judged relevance (that is what benchmarks measure).
"""

import hashlib
from collections.abc import Collection

import numpy as np

from masksearch_jax.data.records import Passage
from masksearch_jax.retrieval import exact

PROBES = 256
K = 10
_PROBE_WORDS = 8
_TIE = 1e-6


def probes(passages: Collection[Passage], count: int = PROBES) -> list[str]:
    """Returns `count` (or fewer) probe texts from evenly spaced passages, at a place drawn from a hash of the id."""
    wanted = set(np.linspace(0, len(passages) - 1, min(count, len(passages))).astype(int).tolist())
    found = []
    for row, passage in enumerate(passages):
        if row in wanted:
            words = passage.text.split()
            draw = int.from_bytes(hashlib.blake2b(str(passage.id).encode(), digest_size=4).digest(), "little")
            start = draw % max(1, len(words) - _PROBE_WORDS + 1)
            found.append(" ".join(words[start : start + _PROBE_WORDS]))
    return found


def measure(index, queries: np.ndarray, k: int = K) -> float:
    """Returns the mean share of the exact top k (float32 [Q, D] queries) that `index` finds; equal scores count."""
    k = min(k, len(index.vectors))
    queries = queries[np.abs(queries).max(axis=1, initial=0) > 0]
    if not len(queries):
        raise ValueError("no probe has a word that the encoder knows; are the passages empty?")
    _, truth = exact.ExactSearcher(index.vectors).search(queries, k)
    _, found = index.search(queries, k)
    return float((found >= truth[:, -1:] - _TIE).mean())
