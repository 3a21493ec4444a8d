"""What a task must not find: the passage it was cut from and what repeats it, or its article (design decision 10).

Enters: `interface.Query` with the task's source. Leaves: by lists made when the index was built, rows of that index; by
text, a yes or no for a passage of any other corpus. A question (passage_id -1) sees everything. Left out: searching on
for what replaces the excluded (tool.py, client.py).
"""

import functools
from pathlib import Path

import numpy as np

from masksearch_jax.retrieval import folder, near_duplicates, readings
from masksearch_jax.retrieval.interface import Query
from masksearch_jax.retrieval.passages import PassageStore
from masksearch_jax.retrieval.settings import EXCLUSIONS

_SOURCES, _DOCUMENTS = 4096, 2048  # whose shingles are kept
# Words in a row that two texts share. Set phrases ("is a village in the administrative district of") stay below.
_SHARED_RUN, _UNTITLED_RUN = 20, 10


def check(mode: str) -> str:
    """Returns the mode; raises ValueError if it is none of 'none', 'passage', 'article'."""
    if mode not in EXCLUSIONS:
        raise ValueError(f"exclusion is {mode!r}, known are {', '.join(EXCLUSIONS)}")
    return mode


class Listed:
    """Exclusion by the lists of an index folder. Thread-safe."""

    def __init__(self, ids: np.ndarray, articles: np.ndarray, duplicates: near_duplicates.NearDuplicates, mode: str):
        """ids, articles: int64 [N] by row of the index, ids ascending. mode: none | passage | article."""
        self.ids, self.mode = ids, check(mode)
        self._duplicates = duplicates
        self._by_article = np.argsort(articles, kind="stable")
        self._articles = articles[self._by_article]

    @classmethod
    def load(cls, directory: Path, mode: str) -> "Listed":
        """Reads the lists of an index folder, whose hashes the caller has checked."""
        with np.load(directory / folder.ROWS) as rows:
            ids, articles = rows["ids"], rows["articles"]
        return cls(ids, articles, near_duplicates.NearDuplicates.load(directory / folder.NEAR_DUPLICATES), mode)

    def rows(self, query: Query) -> np.ndarray:
        """Returns the distinct rows, int64 [m], that this task must not see."""
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


class ByText:
    """Exclusion for a corpus of which nothing is known but the texts that it returns. Thread-safe.

    Its passages are cut at other places than ours, and its servers split title and text in ways of their own. So a
    document is compared whole, and a document that could be the source under any reading (readings.py) is hidden:

    * it holds the source's text, or a piece of it is all that it holds;
    * it shares `threshold` of the shingles (runs of five words) of the shorter of the two;
    * it repeats `_SHARED_RUN` words of the source in a row; `_UNTITLED_RUN` where no title says that it is of another
      article; any five where it is of the source's article.

    Under 'article' the same holds of every passage of the article, and a document that bears its title is hidden.
    """

    def __init__(self, store: PassageStore, mode: str, threshold: float):
        """store: the passages that tasks were cut from. threshold: as IndexSettings.near_duplicate."""
        self.mode, self.threshold = check(mode), threshold
        self._store = store
        self._source = functools.lru_cache(_SOURCES)(self._read_source)
        self._document = functools.lru_cache(_DOCUMENTS)(readings.Document.read)

    def allows(self, query: Query, title: str, text: str, titled: bool = True) -> bool:
        """True if this task may see that document. titled: False where `title` is only a guess at its title."""
        if self.mode == "none" or query.passage_id < 0:
            return True
        source, document = self._source(query.passage_id), self._document(title, text, titled)
        same_article = document.is_of_article(source.title)
        if same_article and self.mode == "article":
            return False
        if any(document.repeats(passage, same_article) for passage in source.passages):
            return False
        if document.share(source.shingles) >= self.threshold:
            return False
        run = 1 if same_article else _SHARED_RUN - 4 if document.titled else _UNTITLED_RUN - 4
        return document.longest_run(source.shingles) < run

    def _read_source(self, passage_id: int) -> readings.Source:
        passage = self._store[passage_id]
        passages = [passage]
        if self.mode == "article":  # prepare writes the passages of an article one after the other
            for step in (-1, 1):
                at = passage_id + step
                while 0 <= at < len(self._store) and (other := self._store[at]).article_id == passage.article_id:
                    passages.append(other)
                    at += step
        return readings.Source.read(passage.title, [one.text for one in passages])
