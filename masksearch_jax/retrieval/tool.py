"""The search tool of rollouts, oracle and evaluation: text in, passages out, the task's own source left out.

Enters: an index folder (build.build), the passage store it was built from, and `interface.Query` objects.
Leaves: `interface.Hit` lists. Order of work: query cache, encoder, index, then exclusion, so that tasks that ask the
same thing share one search (design decision 10). The index is asked for `_OVERFETCH` more than k; where exclusion
leaves fewer than k of them it is asked once more, for k beyond all that is excluded, and if that fails too, exact
search over the rest answers. Left out: remote search.
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
from masksearch_jax.retrieval import exact, folder, near_duplicates, scann_index
from masksearch_jax.retrieval.interface import Hit, Query
from masksearch_jax.retrieval.passages import PassageStore
from masksearch_jax.retrieval.settings import EXCLUSIONS

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
        store: PassageStore,
        ids: np.ndarray,
        articles: np.ndarray,
        duplicates: near_duplicates.NearDuplicates,
        exclusion: str,
        fingerprint: str,
    ):
        """ids, articles: int64 [N] by row of the index, ids ascending. Use `load`."""
        self.exclusion, self.fingerprint = exclusion, fingerprint
        self._encoder, self._index, self._store = encoder, index, store
        self._exact = exact.ExactSearcher(index.vectors)
        self._ids, self._duplicates = ids, duplicates  # row -> passage id, ascending
        self._by_article = np.argsort(articles, kind="stable")
        self._articles = articles[self._by_article]
        self._cache: collections.OrderedDict[tuple[str, int], _Found | None] = collections.OrderedDict()
        self._lock = threading.Lock()  # guards the cache and the counts
        self._counts = collections.Counter()

    @classmethod
    def load(cls, directory: Path | str, store: PassageStore, exclusion: str | None = None) -> "SearchTool":
        """Returns the tool over an index folder. exclusion: 'none', 'passage', 'article'; None takes the built-in one.

        Raises FileNotFoundError or ValueError if files are missing or changed, or if the store is another one.
        """
        directory = Path(directory)
        contents = folder.read_index_file(directory)
        exclusion = contents["settings"]["exclusion"] if exclusion is None else exclusion
        if exclusion not in EXCLUSIONS:
            raise ValueError(f"exclusion is {exclusion!r}, known are {', '.join(EXCLUSIONS)}")
        with np.load(directory / folder.ROWS) as rows:
            ids, articles, digests = rows["ids"], rows["articles"], rows["digests"]
        _check_store(directory, store, ids, digests)
        kind = scann_index.ScannIndex if contents["report"]["index"] == "scann" else exact.ExactSearcher
        return cls(
            encoder=encoders.load(directory / folder.ENCODER),
            index=kind.load(directory / folder.INDEX),
            store=store,
            ids=ids,
            articles=articles,
            duplicates=near_duplicates.NearDuplicates.load(directory / folder.NEAR_DUPLICATES),
            exclusion=exclusion,
            fingerprint=hashlib.sha256(json.dumps([contents["fingerprint"], exclusion]).encode()).hexdigest(),
        )

    def __len__(self) -> int:
        """Number of passages in the index."""
        return len(self._ids)

    @property
    def stats(self) -> dict[str, float]:
        """Counts since loading: queries, cache_hits, empty (said nothing), refetches, exact_fallbacks; seconds."""
        names = ("queries", "cache_hits", "empty", "refetches", "exact_fallbacks", "seconds")
        with self._lock:
            return {name: self._counts[name] for name in names}

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
            self._counts["seconds"] += time.perf_counter() - started
        return hits

    def _find(self, texts: Sequence[str], fetch: int) -> dict[str, _Found | None]:
        """Returns for each text the `fetch` best rows of the whole index, None where the text says nothing."""
        found: dict[str, _Found | None] = {"": None}
        new: dict[str, _Found | None] = {}
        with self._lock:
            for text in texts:
                if text in found or text in new:
                    self._counts["cache_hits"] += text != ""
                elif (text, fetch) in self._cache:
                    self._cache.move_to_end((text, fetch))
                    found[text] = self._cache[text, fetch]
                    self._counts["cache_hits"] += 1
                else:
                    new[text] = None
        if not new:
            return found
        missing = list(new)
        vectors = self._encoder.encode_queries(missing)
        said = vectors.any(axis=1)
        rows, scores = self._index.search(vectors[said], fetch)
        for i, at in enumerate(np.flatnonzero(said)):
            real = rows[i] >= 0
            new[missing[at]] = (rows[i][real], scores[i][real])
        with self._lock:
            for text, result in new.items():
                self._cache[text, fetch] = result
            while len(self._cache) > _CACHED_QUERIES:
                self._cache.popitem(last=False)
        return found | new

    def _exclude(self, query: Query, found: _Found | None, k: int) -> _Found | None:
        """Returns the first k of `found` that the task may see, from exact search where there are too few."""
        if found is None:
            return None
        rows, scores = found
        excluded = self._excluded(query)
        if len(excluded):
            allowed = ~np.isin(rows, excluded)
            rows, scores = rows[allowed], scores[allowed]
        if len(rows) < min(k, len(self) - len(excluded)):
            rows, scores = self._beyond(query.text.strip(), excluded, k)
        return rows[:k], scores[:k]

    def _beyond(self, text: str, excluded: np.ndarray, k: int) -> _Found:
        """Returns the k best rows that are not excluded, for a task whose exclusions used up the over-fetch."""
        vector = self._encoder.encode_queries([text])
        wanted = min(k, len(self) - len(excluded))
        if len(excluded) <= _MOST_EXCLUDED:
            rows, scores = (one[0] for one in self._index.search(vector, k + len(excluded)))
            allowed = (rows >= 0) & ~np.isin(rows, excluded)
            if allowed.sum() >= wanted:
                self._count("refetches")
                return rows[allowed], scores[allowed]
        self._count("exact_fallbacks")
        rows, scores = (one[0] for one in self._exact.search(vector, k, [excluded]))
        return rows[rows >= 0], scores[rows >= 0]

    def _count(self, name: str) -> None:
        with self._lock:
            self._counts[name] += 1

    def _excluded(self, query: Query) -> np.ndarray:
        """Returns the distinct rows that this task must not see. A question (passage_id -1) sees everything."""
        if self.exclusion == "none" or query.passage_id < 0:
            return np.empty(0, np.int64)
        rows = []
        at = int(np.searchsorted(self._ids, query.passage_id))
        if at < len(self._ids) and self._ids[at] == query.passage_id:
            rows += [np.array([at]), self._duplicates.of(at)]
        if self.exclusion == "article":
            first, last = np.searchsorted(self._articles, [query.article_id, query.article_id + 1])
            rows.append(self._by_article[first:last])
        return np.unique(np.concatenate(rows)) if rows else np.empty(0, np.int64)

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
