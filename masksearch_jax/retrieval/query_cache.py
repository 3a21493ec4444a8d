"""A cache of recent answers by query text, so that a question asked twice is searched once.

Enters: texts, and how many results each needs. Leaves: the cached answers, and the texts that are not cached. A task's
exclusions are applied after the cache. Left out: locking (the owner already holds a lock).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

from masksearch_jax.retrieval.bounded_cache import BoundedCache, text_bytes

Answer = TypeVar("Answer")


class QueryCache(Generic[Answer]):
    """The most recently used answers, which take at most `limit` bytes."""

    def __init__(self, limit: int, size: Callable[[Answer], int]):
        """limit: bytes of queries and answers. size: answer -> its bytes in memory."""
        self._answers: BoundedCache[tuple[str, int], Answer] = BoundedCache(
            limit, lambda key, answer: text_bytes(key[0]) + size(answer)
        )

    @property
    def bytes(self) -> int:
        """The bytes that are in use."""
        return self._answers.bytes

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
                found[text] = self._answers[text, fetch]
                hits += 1
            else:
                missing[text] = None
        return found, list(missing), hits

    def add(self, answers: Mapping[str, Answer], fetch: int) -> None:
        """Store answers, and drop the least recently used ones beyond the limit."""
        for text, answer in answers.items():
            self._answers[text, fetch] = answer
