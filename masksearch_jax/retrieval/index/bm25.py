"""Ranking by words (BM25) beside ranking by vectors, over the same passages, and the fusion of both.

Enters: texts of passages or queries. Leaves: rows int64 [m] and scores float32 [m], best first, equal scores by lower
row. BM25 is that of the bm25s package with its defaults (Lucene's form, k1 = 1.5, b = 0.75), over the words of the
lexical encoder. The top k are selected here, so that a result depends on its query alone. Rankings are fused by
reciprocal rank (Cormack, Clarke and Buettcher, SIGIR 2009). Left out: stemming, stop words, weights of the two
rankings.
"""

import importlib
import sys
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from masksearch_jax.retrieval.encoders import lexical

DEPTH = 100  # least length of the rankings that are fused
_RANK_CONSTANT = 60  # the paper's k

_import_lock = threading.Lock()


def _bm25s() -> ModuleType:
    """Import bm25s without JAX.

    bm25s would start JAX for a selection that is not used here. On a TPU host that takes the chips from the process
    that trains.
    """
    with _import_lock:
        if "bm25s" in sys.modules:
            return sys.modules["bm25s"]
        blocked = "jax.lax" if "jax" in sys.modules else "jax"
        before = sys.modules.get(blocked)
        sys.modules[blocked] = None  # type: ignore[assignment]  # the import system takes None for "not there"
        try:
            return importlib.import_module("bm25s")
        except ImportError as error:
            raise ImportError(
                "a hybrid index needs bm25s: install the extra 'retrieval' (pip install 'masksearch_jax[retrieval]'), "
                "or build the index anew with retrieval.hybrid=False"
            ) from error
        finally:
            if before is None:
                del sys.modules[blocked]
            else:
                sys.modules[blocked] = before


class BM25Index:
    """BM25 over the rows of an index. Immutable; thread-safe."""

    def __init__(self, scorer):
        self._scorer = scorer  # bm25s.BM25

    @classmethod
    def build(cls, texts: Iterable[str], directory: Path | str) -> "BM25Index":
        """Index the texts (made by `encoder.passage_text`), in row order, and save into `directory` (made if missing).

        While it runs it holds a word id, 8 bytes, for every word of the corpus. Raises ValueError if the texts have no
        word.
        """
        vocabulary: dict[str, int] = {}  # ids by first appearance, so that two builds write the same bytes
        ids = [[vocabulary.setdefault(word, len(vocabulary)) for word in lexical.words(text)] for text in texts]
        if not vocabulary:
            raise ValueError("the passages hold no word; are they empty?")
        scorer = _bm25s().BM25()
        scorer.index((ids, vocabulary), create_empty_token=False, show_progress=False)
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        scorer.save(directory, show_progress=False)
        return cls(scorer)

    @classmethod
    def load(cls, directory: Path | str) -> "BM25Index":
        """Return the index that `build` saved, with its postings mapped, not read."""
        return cls(_bm25s().BM25.load(directory, load_corpus=False, mmap=True, show_progress=False))

    def search(self, text: str, k: int, excluded: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return at most k rows that share a word with the text, best first, and their scores.

        excluded: rows int64 [m] to leave out.
        """
        vocabulary = self._scorer.vocab_dict
        known = [vocabulary[word] for word in lexical.words(text) if word in vocabulary]
        if not known:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        scores = self._scorer.get_scores_from_ids(known)
        if excluded is not None:
            scores[excluded] = 0
        rows = np.flatnonzero(scores > 0)
        if len(rows) > k:
            rows = rows[scores[rows] >= np.partition(scores[rows], len(rows) - k)[len(rows) - k]]
        rows = rows[np.lexsort((rows, -scores[rows]))[:k]]
        return rows, scores[rows]


def fuse(rankings: Sequence[np.ndarray], k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the k best rows of several rankings (rows int64 [m], best first) by the sum of 1 / (60 + rank)."""
    gains = [1 / (_RANK_CONSTANT + np.arange(1, len(ranking) + 1)) for ranking in rankings]
    rows, place = np.unique(np.concatenate(rankings), return_inverse=True)
    totals = np.bincount(place, np.concatenate(gains), minlength=len(rows))
    order = np.lexsort((rows, -totals))[:k]
    return rows[order], totals[order].astype(np.float32)
