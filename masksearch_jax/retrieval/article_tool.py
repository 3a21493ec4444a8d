"""The tool `visit`: read on in an article that a search of this episode found. And searches that show only a snippet.

Enters: the title of a hit, and what the episode has found so far (interface.Query.found). Leaves: the next passages of
that article which the episode has not read: from the one that was found to the article's end, then from its start. A
second visit goes on where the first one stopped. A title that no search found gives nothing. What the task must not see
(exclusion.py) and what the index does not hold, such as held-out articles, is left out.
"""

import collections
import dataclasses
import hashlib
import json
import threading
from collections.abc import Sequence

import numpy as np

from masksearch_jax.retrieval.exclusion import ExcludeById
from masksearch_jax.retrieval.interface import Hit, Query, Searcher
from masksearch_jax.retrieval.passage_store import PassageStore
from masksearch_jax.text import tags


class ArticleTool:
    """An `interface.Searcher` over articles. Thread-safe."""

    def __init__(self, store: PassageStore, excluded: ExcludeById, index: str):
        """excluded: the lists of an index; passages that it does not hold are not shown. index: its fingerprint."""
        self._store, self._excluded = store, excluded
        self._indexed = np.zeros(len(store), bool)  # by passage id; a set of them would take a hundred times as much
        self._indexed[excluded.ids] = True
        identity = ["visit", index, excluded.mode]
        self.fingerprint = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
        self._lock = threading.Lock()
        self._counts: dict[str, float] = collections.defaultdict(int)

    @property
    def stats(self) -> dict[str, float]:
        """Return counts since the start: queries; unknown, of titles that no search had found; empty, of articles that
        had no more to show."""
        with self._lock:
            return {name: self._counts[name] for name in ("queries", "unknown", "empty")}

    def search(self, queries: Sequence[Query], k: int) -> list[list[Hit]]:
        """Return the next k passages of each article; none for a title that was not found before."""
        return [self._read_on(query, k) for query in queries]

    def _read_on(self, query: Query, k: int) -> list[Hit]:
        named = _key(query.text)
        at = next((hit.passage_id for hit in reversed(query.found) if _key(hit.title) == named), -1)
        read = {hit.passage_id for hit in query.found if self._is_whole(hit)}
        hidden = set(self._excluded.ids[self._excluded.rows(query)].tolist())
        order = self._article(at) if at >= 0 else []
        wanted = [id for id in order if self._indexed[id] and id not in hidden and id not in read][:k]
        with self._lock:
            self._counts["queries"] += 1
            self._counts["unknown"] += at < 0
            self._counts["empty"] += at >= 0 and not wanted
        return [Hit(one.id, one.article_id, one.title, one.text, 1.0) for one in self._store.get(wanted)]

    def _is_whole(self, hit: Hit) -> bool:
        """Return whether a hit showed all of its passage, and not a snippet."""
        return hit.passage_id >= 0 and self._store[hit.passage_id].text == hit.text

    def _article(self, passage_id: int) -> list[int]:
        """Return the passages of an article, from this one to the last, then from the first to this one.

        `prepare` writes the passages of an article one after the other.
        """
        article = self._store[passage_id].article_id
        ends = [passage_id, passage_id]
        for side, step in ((0, -1), (1, 1)):
            while 0 <= (at := ends[side] + step) < len(self._store) and self._store[at].article_id == article:
                ends[side] = at
        return [*range(passage_id, ends[1] + 1), *range(ends[0], passage_id)]


class SnippetSearch:
    """A search whose hits show the first `words` words of their passages, as a search engine's page does."""

    def __init__(self, searcher: Searcher, words: int):
        self._searcher, self._words = searcher, words
        self.fingerprint = hashlib.sha256(json.dumps(["snippets", searcher.fingerprint, words]).encode()).hexdigest()

    @property
    def stats(self) -> dict[str, float]:
        return dict(self._searcher.stats)

    def search(self, queries: Sequence[Query], k: int) -> list[list[Hit]]:
        """Return what the searcher returns, with texts cut after `words` words."""
        return [[self._cut(hit) for hit in hits] for hits in self._searcher.search(queries, k)]

    def _cut(self, hit: Hit) -> Hit:
        words = hit.text.split()
        if len(words) <= self._words:
            return hit
        return dataclasses.replace(hit, text=f"{' '.join(words[: self._words])} ..")


def _key(title: str) -> str:
    """Return a title as it is compared: an observation shows it without our tags, and a policy may respell its case."""
    return " ".join(tags.neutralise(title).casefold().split())
