"""Answers of recent queries by their text, so that a question asked twice is searched once.

Enters: texts and how many results each needs. Leaves: the answers that are known and the texts that are not. What a
task may not see is taken out after the cache (design decision 10). Left out: locking (the owner has a lock already).
"""

import collections
from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

Answer = TypeVar("Answer")


class QueryCache(Generic[Answer]):
    """The `limit` answers used last."""

    def __init__(self, limit: int):
        self._limit = limit
        self._answers: collections.OrderedDict[tuple[str, int], Answer] = collections.OrderedDict()

    def split(self, texts: Sequence[str], fetch: int) -> tuple[dict[str, Answer], list[str], int]:
        """Returns (known answers by text, distinct texts to search, how many of `texts` need no search of their own).

        An empty text is neither.
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
        """Keeps answers, and drops those that were used longest ago where there are too many."""
        for text, answer in answers.items():
            self._answers[text, fetch] = answer
        while len(self._answers) > self._limit:
            self._answers.popitem(last=False)
