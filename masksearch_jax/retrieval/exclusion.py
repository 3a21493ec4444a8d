"""What a task must not find: the passage it was cut from and what repeats it, or its article (design decision 10).

Enters: `interface.Query` with the task's source. Leaves: by lists made when the index was built, rows of that index; by
text, a yes or no for a passage of any other corpus. A question (passage_id -1) sees everything. Left out: searching on
for what replaces the excluded (tool.py, client.py).
"""

import functools
from pathlib import Path

import numpy as np

from masksearch_jax.retrieval import folder, near_duplicates
from masksearch_jax.retrieval.interface import Query
from masksearch_jax.retrieval.passages import PassageStore
from masksearch_jax.retrieval.settings import EXCLUSIONS
from masksearch_jax.text import shingles

_SOURCES = 4096  # tasks whose shingles are kept


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

    Its passages are cut at other places than ours: a piece of the source's article that shares any run of five words
    with the source is the source cut elsewhere, whatever its share of them.
    """

    def __init__(self, store: PassageStore, mode: str, threshold: float):
        """store: the passages that tasks were cut from. threshold: as IndexSettings.near_duplicate."""
        self.mode, self.threshold = check(mode), threshold
        self._store = store
        self._source = functools.lru_cache(_SOURCES)(self._read_source)

    def allows(self, query: Query, title: str, text: str) -> bool:
        """True if this task may see that passage."""
        if self.mode == "none" or query.passage_id < 0:
            return True
        source_title, source = self._source(query.passage_id)
        same_article = shingles.words(title) == source_title
        if same_article and self.mode == "article":
            return False
        share = shingles.share(source, shingles.shingles_of(text))
        return share == 0 or (share < self.threshold and not same_article)

    def _read_source(self, passage_id: int) -> tuple[list[str], np.ndarray]:
        passage = self._store[passage_id]
        return shingles.words(passage.title), shingles.shingles_of(passage.text)
