"""A cache of recent answers by query text, so that a question asked twice is searched once.

Enters: texts, and how many results each needs. Leaves: the cached answers, and the texts that are not cached. A task's
exclusions are applied after the cache. Left out: locking (the owner already holds a lock).
"""

import collections
from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

Answer = TypeVar("Answer")


class QueryCache(Generic[Answer]):
    """The `limit` most recently used answers."""

    def __init__(self, limit: int):
        self._limit = limit
        self._answers: collections.OrderedDict[tuple[str, int], Answer] = collections.OrderedDict()

    def split(self, texts: Sequence[str], fetch: int) -> tuple[dict[str, Answer], list[str], int]:
        """Return (cached answers by text, distinct texts to search, how many of `texts` need no search of their own).

        Empty texts are skipped.
        """
        found: dict[str, Answer] = {}
        missing: dict[str, None] = {}
        hits = 0
        for text in texts:
            if text == "":
                continue
            if text in found or text in missing:
                hits += 1
            elif (text, fetch) in self._answers:
                self._answers.move_to_end((text, fetch))
                found[text] = self._answers[text, fetch]
                hits += 1
            else:
                missing[text] = None
        return found, list(missing), hits

    def add(self, answers: Mapping[str, Answer], fetch: int) -> None:
        """Store answers, and drop the least recently used ones beyond the limit."""
        for text, answer in answers.items():
            self._answers[text, fetch] = answer
        while len(self._answers) > self._limit:
            self._answers.popitem(last=False)
