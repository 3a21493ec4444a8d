"""Hide from a task the passage it was cut from and what repeats it, or its whole article.

Enters: `interface.Query` with the task's source. Leaves: `ExcludeById` gives rows of an index, from lists made when
that index was built; `ExcludeByText` gives a yes or no for a passage of any other corpus. A question (passage_id -1)
sees everything. Left out: fetching more results in place of the excluded ones (tool.py, service/search_client.py).
"""

import threading
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from masksearch_jax.retrieval import document_readings
from masksearch_jax.retrieval.bounded_cache import BoundedCache
from masksearch_jax.retrieval.index import index_store, near_duplicates
from masksearch_jax.retrieval.index.index_settings import EXCLUSIONS
from masksearch_jax.retrieval.interface import Query
from masksearch_jax.retrieval.passage_store import PassageStore

Key = TypeVar("Key", bound=Hashable)
Read = TypeVar("Read", document_readings.Source, document_readings.Document)

# Bytes of the readings that are kept, of sources and of documents each. A reading of a passage of 100 words takes some
# 5 KB, one of the longest documents of a server a megabyte.
_KEPT_BYTES = 64 << 20
# Shared words in a row that hide a document. Set phrases such as "is a village in the administrative district of" are
# shorter.
_SHARED_RUN, _UNTITLED_RUN = 20, 10


def validate_exclusion(mode: str) -> str:
    """Return the mode; raise ValueError if it is none of 'none', 'passage', 'article'."""
    if mode not in EXCLUSIONS:
        raise ValueError(f"exclusion is {mode!r}, known are {', '.join(EXCLUSIONS)}")
    return mode


class ExcludeById:
    """Exclusion by passage id, from the lists of an index folder. Thread-safe."""

    def __init__(self, ids: np.ndarray, articles: np.ndarray, duplicates: near_duplicates.NearDuplicates, mode: str):
        """ids, articles: int64 [N] by row of the index, ids ascending. mode: none | passage | article."""
        self.ids, self.mode = ids, validate_exclusion(mode)
        self._duplicates = duplicates
        self._by_article = np.argsort(articles, kind="stable")
        self._articles = articles[self._by_article]

    @classmethod
    def load(cls, directory: Path, mode: str) -> "ExcludeById":
        """Read the lists of an index folder. The caller has checked the hashes of its files."""
        with np.load(directory / index_store.ROWS) as rows:
            ids, articles = rows["ids"], rows["articles"]
        return cls(ids, articles, near_duplicates.NearDuplicates.load(directory / index_store.NEAR_DUPLICATES), mode)

    def rows(self, query: Query) -> np.ndarray:
        """Return the distinct rows, int64 [m], that this task must not see."""
        if self.mode == "none" or query.passage_id < 0:
            return np.empty(0, np.int64)
        rows = []
        at = int(np.searchsorted(self.ids, query.passage_id))
        if at < len(self.ids) and self.ids[at] == query.passage_id:
            rows += [np.array([at]), self._duplicates.of(at)]
        if self.mode == "article":
            first, last = np.searchsorted(self._articles, [query.article_id, query.article_id + 1])
            rows.append(self._by_article[first:last])
        return np.unique(np.concatenate(rows)) if rows else np.empty(0, np.int64)


class ExcludeByText:
    """Exclusion by text, for a corpus of which nothing is known but the texts that it returns. Thread-safe.

    Such a corpus cuts its passages at other places than we do, and its servers split title and text in their own ways.
    So a document is compared whole, and it is hidden if it could be the source under any reading
    (document_readings.py):

    * it contains the source's text, or consists only of a piece of it;
    * it shares at least `threshold` of the shingles (runs of five words) of the shorter of the two;
    * it repeats `_SHARED_RUN` words of the source in a row; `_UNTITLED_RUN` are enough where no title says that it
      belongs to another article, and any five where it belongs to the source's article.

    In mode 'article' the same holds for every passage of the article, and a document with the article's title is
    hidden.
    """

    def __init__(self, store: PassageStore, mode: str, threshold: float):
        """store: the passages that tasks were cut from. threshold: as IndexSettings.near_duplicate."""
        self.mode, self.threshold = validate_exclusion(mode), threshold
        self._store = store
        self._sources: _Readings[int, document_readings.Source] = _Readings()
        self._documents: _Readings[tuple[str, str, bool], document_readings.Document] = _Readings()

    def allows(self, query: Query, title: str, text: str, titled: bool = True) -> bool:
        """Return whether this task may see the document. titled: False where `title` is only a guess at its title."""
        if self.mode == "none" or query.passage_id < 0:
            return True
        source = self._sources.get(query.passage_id, lambda: self._read_source(query.passage_id))
        document = self._documents.get(
            (title, text, titled), lambda: document_readings.Document.read(title, text, titled)
        )
        same_article = document.is_of_article(source.title)
        if same_article and self.mode == "article":
            return False
        if any(document.repeats(passage, same_article) for passage in source.passages):
            return False
        if document.share(source.shingles) >= self.threshold:
            return False
        run = 1 if same_article else _SHARED_RUN - 4 if document.titled else _UNTITLED_RUN - 4
        return document.longest_run(source.shingles) < run

    def _read_source(self, passage_id: int) -> document_readings.Source:
        passage = self._store[passage_id]
        passages = [passage]
        if self.mode == "article":  # prepare writes the passages of an article one after the other
            for step in (-1, 1):
                at = passage_id + step
                while 0 <= at < len(self._store) and (other := self._store[at]).article_id == passage.article_id:
                    passages.append(other)
                    at += step
        return document_readings.Source.read(passage.title, [one.text for one in passages])


class _Readings(Generic[Key, Read]):
    """The readings that were used last, up to `_KEPT_BYTES`. Thread-safe."""

    def __init__(self):
        self._kept: BoundedCache[Key, Read] = BoundedCache(_KEPT_BYTES, lambda key, reading: reading.nbytes)
        self._lock = threading.Lock()

    def get(self, key: Key, read: Callable[[], Read]) -> Read:
        """Return the reading of a key; `read` makes it if it is not kept. Two threads may both make it."""
        with self._lock:
            if key in self._kept:
                return self._kept[key]
        reading = read()
        with self._lock:
            self._kept[key] = reading
        return reading
