"""The search tool of rollouts, oracle and evaluation: text in, passages out, the task's own source left out.

Enters: an index folder (build.build), the passage store it was built from, and `interface.Query` objects.
Leaves: `interface.Hit` lists. Order of work: query cache, encoder, index, then exclusion, so that tasks that ask the
same thing share one search (design decision 10). The index is asked for `_OVERFETCH` more than k; where exclusion
leaves fewer than k of them it is asked once more, for k beyond all that is excluded, and if that fails too, exact
search over the rest answers. A hybrid index ranks by words as well (hybrid.py). Left out: remote search (client.py).
"""

import collections
import hashlib
import json
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from masksearch_jax.retrieval import encoder as encoders
from masksearch_jax.retrieval import exact, exclusion, folder, hybrid, scann_index
from masksearch_jax.retrieval.interface import Hit, Query
from masksearch_jax.retrieval.latency import Latencies
from masksearch_jax.retrieval.passages import PassageStore
from masksearch_jax.retrieval.query_cache import QueryCache

_OVERFETCH = 16
_MOST_EXCLUDED = 1000  # beyond, the second request would cost as much as exact search
_CACHED_QUERIES = 1 << 16
_STORE_SAMPLES = 1024

_Found = tuple[np.ndarray, np.ndarray]  # rows int64 [m], scores float32 [m]


class SearchTool:
    """Implements `interface.Searcher`. Thread-safe. A result depends on its query alone, not on batch or history."""

    def __init__(
        self,
        encoder: encoders.Encoder,
        index: exact.ExactSearcher | scann_index.ScannIndex,
        words: hybrid.WordIndex | None,
        store: PassageStore,
        excluded: exclusion.Listed,
        fingerprint: str,
    ):
        """words: the second ranking of a hybrid index. Use `load`."""
        self.exclusion, self.fingerprint = excluded.mode, fingerprint
        self._encoder, self._index, self._words, self._store = encoder, index, words, store
        self._exact = exact.ExactSearcher(index.vectors)
        self._excluded, self._ids = excluded, excluded.ids  # row -> passage id, ascending
        self._cache: QueryCache[_Found | None] = QueryCache(_CACHED_QUERIES)
        self._lock = threading.Lock()  # guards the cache, the counts and the latencies
        self._counts = collections.Counter()
        self._latencies = Latencies()

    @classmethod
    def load(cls, directory: Path | str, store: PassageStore, mode: str | None = None) -> "SearchTool":
        """Returns the tool over an index folder. mode: excludes 'none', 'passage', 'article'; None: the built-in one.

        Raises FileNotFoundError or ValueError if files are missing or changed, or if the store is another one.
        """
        directory = Path(directory)
        return folder.settled(directory, lambda: cls._load(directory, store, mode))

    @classmethod
    def _load(cls, directory: Path, store: PassageStore, mode: str | None) -> "SearchTool":
        contents = folder.read_index_file(directory)
        mode = exclusion.check(contents["settings"]["exclusion"] if mode is None else mode)
        with np.load(directory / folder.ROWS) as rows:
            _check_store(directory, store, rows["ids"], rows["digests"])
        kind = scann_index.ScannIndex if contents["report"]["index"] == "scann" else exact.ExactSearcher
        return cls(
            encoder=encoders.load(directory / folder.ENCODER),
            index=kind.load(directory / folder.INDEX),
            words=hybrid.WordIndex.load(directory / folder.WORDS) if (directory / folder.WORDS).is_dir() else None,
            store=store,
            excluded=exclusion.Listed.load(directory, mode),
            fingerprint=hashlib.sha256(json.dumps([contents["fingerprint"], mode]).encode()).hexdigest(),
        )

    def __len__(self) -> int:
        """Number of passages in the index."""
        return len(self._ids)

    @property
    def stats(self) -> dict[str, float]:
        """Counts since loading: queries, cache_hits, empty (said nothing), refetches, exact_fallbacks, seconds; and
        quantiles of what a call of `search` took."""
        names = ("queries", "cache_hits", "empty", "refetches", "exact_fallbacks", "seconds")
        with self._lock:
            return {name: self._counts[name] for name in names} | self._latencies.summary()

    def search(self, queries: Sequence[Query], k: int) -> list[list[Hit]]:
        """Returns at most k hits for each query, best first; none for a query without a word that the encoder knows.

        Fewer than k only if the index has no more after exclusion. Raises ValueError for k < 1.
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
        """Returns for each text the `fetch` best rows of the whole index, None where the text says nothing."""
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
        """Returns the `fetch` best rows for each text. excluded: rows to leave out, by exact search over the rest."""
        vectors = self._encoder.encode_queries(texts)
        said = np.flatnonzero(vectors.any(axis=1))
        depth = fetch if self._words is None else max(fetch, hybrid.DEPTH)
        if excluded is None:
            rows, scores = self._index.search(vectors[said], min(depth, len(self)))
        else:
            rows, scores = self._exact.search(vectors[said], depth, [excluded] * len(said))
        ranked: list[_Found | None] = [None] * len(texts)
        for at, one_rows, one_scores in zip(said, rows, scores, strict=True):
            found = (one_rows[one_rows >= 0], one_scores[one_rows >= 0])
            if self._words is not None:
                by_words = self._words.search(texts[at], depth, excluded)
                found = hybrid.fuse([found[0], by_words[0]], fetch)
            ranked[at] = found
        return ranked

    def _exclude(self, query: Query, found: _Found | None, k: int) -> _Found | None:
        """Returns the first k of `found` that the task may see, from exact search where there are too few."""
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
        """Returns the k best rows that are not excluded, for a task whose exclusions used up the over-fetch."""
        wanted = min(k, len(self) - len(excluded))
        if len(excluded) <= _MOST_EXCLUDED:
            ((rows, scores),) = self._rank([text], min(k + len(excluded), len(self)))
            allowed = ~np.isin(rows, excluded)
            if allowed.sum() >= wanted:
                self._count("refetches")
                return rows[allowed], scores[allowed]
        self._count("exact_fallbacks")
        ((rows, scores),) = self._rank([text], k, excluded)
        return rows, scores

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
    """Compares evenly spaced passages, all of a small store, with those that were indexed."""
    rows = np.unique(np.linspace(0, len(ids) - 1, min(len(ids), _STORE_SAMPLES)).astype(int))
    same = ids[-1] < len(store)
    if same:
        stored = [folder.digest(passage) for passage in store.get(ids[rows].tolist())]
        same = np.array_equal(np.array(stored, np.uint64), digests[rows])
    if not same:
        raise ValueError(
            f"{directory} was built from other passages than {store.path} holds; build the index again with "
            "`python -m masksearch_jax.prepare`"
        )
