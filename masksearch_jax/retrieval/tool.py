"""The search tool of rollouts, teachers and evaluation: text in, passages out, without the task's own source.

Enters: an index folder (build.build_index), the passage store it was built from, and `interface.Query` objects. Leaves:
lists of `interface.Hit`. Order of work: query cache, encoder, index, then exclusion, so that tasks that ask the same
thing share one search. The index is asked for `_OVERFETCH` results more than k. If exclusion leaves
fewer than k of them, the index is asked once more, for k plus the number of excluded rows. If that fails too, exact
search over the remaining rows answers. A hybrid index ranks by BM25 as well (index/bm25.py). Left out: remote search
(service/search_client.py).
"""

import collections
import hashlib
import json
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from masksearch_jax.retrieval import exclusion
from masksearch_jax.retrieval.encoders import encoder as encoders
from masksearch_jax.retrieval.index import bm25, exact, index_store, scann_index
from masksearch_jax.retrieval.interface import Hit, Query
from masksearch_jax.retrieval.passage_store import PassageStore
from masksearch_jax.retrieval.query_cache import QueryCache
from masksearch_jax.retrieval.service.latency_histogram import Latencies

_OVERFETCH = 16
_MOST_EXCLUDED = 1000  # with more, the second request would cost as much as exact search
_CACHED_BYTES = 128 << 20  # of queries and their rows: some 100,000 queries
_STORE_SAMPLES = 1024

_Found = tuple[np.ndarray, np.ndarray]  # rows int64 [m], scores float32 [m]
_ARRAY_BYTES = 128  # of an array of numpy beside its numbers


def _bytes_of(found: _Found | None) -> int:
    return 0 if found is None else sum(one.nbytes + _ARRAY_BYTES for one in found)


class SearchTool:
    """The local `interface.Searcher`. Thread-safe. A result depends on its query alone, not on batch or history."""

    def __init__(
        self,
        encoder: encoders.Encoder,
        index: exact.ExactSearcher | scann_index.ScannIndex,
        words: bm25.BM25Index | None,
        store: PassageStore,
        excluded: exclusion.ExcludeById,
        fingerprint: str,
    ):
        """Use `load` instead. words: the second ranking of a hybrid index."""
        self.exclusion, self.fingerprint = excluded.mode, fingerprint
        self._encoder, self._index, self._words, self._store = encoder, index, words, store
        self._exact = exact.ExactSearcher(index.vectors)
        self._excluded, self._ids = excluded, excluded.ids  # row -> passage id, ascending
        self._cache: QueryCache[_Found | None] = QueryCache(_CACHED_BYTES, _bytes_of)
        self._lock = threading.Lock()  # guards the cache, the counts and the latencies
        self._counts: dict[str, float] = collections.defaultdict(int)
        self._latencies = Latencies()

    @classmethod
    def load(cls, directory: Path | str, store: PassageStore, mode: str | None = None) -> "SearchTool":
        """Return the tool over an index folder.

        mode: what to exclude, 'none', 'passage' or 'article'; None takes the mode that the index was built with. Raises
        FileNotFoundError or ValueError if files are missing or changed, or if the store is not the one that was
        indexed.
        """
        directory = Path(directory)
        return index_store.settled(directory, lambda: cls._load(directory, store, mode))

    @classmethod
    def _load(cls, directory: Path, store: PassageStore, mode: str | None) -> "SearchTool":
        contents = index_store.read_index_file(directory)
        mode = exclusion.validate_exclusion(contents["settings"]["exclusion"] if mode is None else mode)
        with np.load(directory / index_store.ROWS) as rows:
            _check_store(directory, store, rows["ids"], rows["digests"])
        kind = scann_index.ScannIndex if contents["report"]["index"] == "scann" else exact.ExactSearcher
        return cls(
            encoder=encoders.load(directory / index_store.ENCODER),
            index=kind.load(directory / index_store.INDEX),
            words=bm25.BM25Index.load(directory / index_store.WORDS)
            if (directory / index_store.WORDS).is_dir()
            else None,
            store=store,
            excluded=exclusion.ExcludeById.load(directory, mode),
            fingerprint=hashlib.sha256(json.dumps([contents["fingerprint"], mode]).encode()).hexdigest(),
        )

    def __len__(self) -> int:
        """Return the number of passages in the index."""
        return len(self._ids)

    @property
    def stats(self) -> dict[str, float]:
        """Return counts since loading, and quantiles of the time that a call of `search` took.

        The counts: queries, cache_hits, empty (the query's vector is zero), refetches, exact_fallbacks, seconds.
        """
        names = ("queries", "cache_hits", "empty", "refetches", "exact_fallbacks", "seconds")
        with self._lock:
            return {name: self._counts[name] for name in names} | self._latencies.summary()

    def search(self, queries: Sequence[Query], k: int) -> list[list[Hit]]:
        """Return at most k hits for each query, best first; none for a query without a word that the encoder knows.

        There are fewer than k only if the index has no more after exclusion. Raises ValueError for k < 1.
        """
        if k < 1:
            raise ValueError(f"k is {k}, must be at least 1")
        started = time.perf_counter()
        texts = [query.text.strip() for query in queries]
        found = self._find(texts, min(k + _OVERFETCH, len(self)))
        kept = [self._exclude(query, found[text], k) for query, text in zip(queries, texts, strict=True)]
        hits = self._hits(kept)
        with self._lock:
            self._counts["queries"] += len(queries)
            self._counts["empty"] += sum(found[text] is None for text in texts)
            taken = time.perf_counter() - started
            self._counts["seconds"] += taken
            self._latencies.add(taken)
        return hits

    def _find(self, texts: Sequence[str], fetch: int) -> dict[str, _Found | None]:
        """Return for each text the `fetch` best rows of the whole index, None where the text's vector is zero."""
        with self._lock:
            found, missing, hits = self._cache.split(texts, fetch)
            self._counts["cache_hits"] += hits
        found[""] = None
        if not missing:
            return found
        new = dict(zip(missing, self._rank(missing, fetch), strict=True))
        with self._lock:
            self._cache.add(new, fetch)
        return found | new

    def _rank(self, texts: Sequence[str], fetch: int, excluded: np.ndarray | None = None) -> list[_Found | None]:
        """Return the `fetch` best rows for each text, None where its vector is zero.

        excluded: rows to leave out; the others are then searched exactly.
        """
        vectors = self._encoder.encode_queries(texts)
        said = np.flatnonzero(vectors.any(axis=1))
        depth = fetch if self._words is None else max(fetch, bm25.DEPTH)
        if excluded is None:
            rows, scores = self._index.search(vectors[said], min(depth, len(self)))
        else:
            rows, scores = self._exact.search(vectors[said], depth, [excluded] * len(said))
        ranked: list[_Found | None] = [None] * len(texts)
        for at, one_rows, one_scores in zip(said.tolist(), rows, scores, strict=True):
            found = (one_rows[one_rows >= 0], one_scores[one_rows >= 0])
            if self._words is not None:
                by_words = self._words.search(texts[at], depth, excluded)
                found = bm25.fuse([found[0], by_words[0]], fetch)
            ranked[at] = found
        return ranked

    def _exclude(self, query: Query, found: _Found | None, k: int) -> _Found | None:
        """Return the first k rows of `found` that the task may see; search wider (`_beyond`) if those are too few."""
        if found is None:
            return None
        rows, scores = found
        excluded = self._excluded.rows(query)
        if len(excluded):
            allowed = ~np.isin(rows, excluded)
            rows, scores = rows[allowed], scores[allowed]
        if len(rows) < min(k, len(self) - len(excluded)):
            rows, scores = self._beyond(query.text.strip(), excluded, k)
        return rows[:k], scores[:k]

    def _beyond(self, text: str, excluded: np.ndarray, k: int) -> _Found:
        """Return the best rows that are not excluded, for a task whose exclusions used up the over-fetch.

        There are at least k of them if the index has so many.
        """
        wanted = min(k, len(self) - len(excluded))
        if len(excluded) <= _MOST_EXCLUDED:
            rows, scores = self._rank_one(text, min(k + len(excluded), len(self)))
            allowed = ~np.isin(rows, excluded)
            if allowed.sum() >= wanted:
                self._count("refetches")
                return rows[allowed], scores[allowed]
        self._count("exact_fallbacks")
        return self._rank_one(text, k, excluded)

    def _rank_one(self, text: str, depth: int, excluded: np.ndarray | None = None) -> _Found:
        """Return what `_rank` does, for a text that is known to have a vector."""
        (found,) = self._rank([text], depth, excluded)
        assert found is not None
        return found

    def _count(self, name: str) -> None:
        with self._lock:
            self._counts[name] += 1

    def _hits(self, kept: Sequence[_Found | None]) -> list[list[Hit]]:
        wanted = [self._ids[found[0]].tolist() if found is not None else [] for found in kept]
        passages = iter(self._store.get([passage_id for one in wanted for passage_id in one]))
        out = []
        for found in kept:
            scores = found[1].tolist() if found is not None else []
            out.append([_hit(next(passages), score) for score in scores])
        return out


def _hit(passage, score: float) -> Hit:
    return Hit(passage.id, passage.article_id, passage.title, passage.text, score)


def _check_store(directory: Path, store: PassageStore, ids: np.ndarray, digests: np.ndarray) -> None:
    """Raise ValueError if evenly spaced passages (all of a small store) differ from those that were indexed."""
    rows = np.unique(np.linspace(0, len(ids) - 1, min(len(ids), _STORE_SAMPLES)).astype(int))
    same = ids[-1] < len(store)
    if same:
        stored = [index_store.digest(passage) for passage in store.get(ids[rows].tolist())]
        same = np.array_equal(np.array(stored, np.uint64), digests[rows])
    if not same:
        raise ValueError(
            f"{directory} was built from other passages than {store.path} holds; build the index again with "
            "`python -m masksearch_jax.prepare`"
        )
