"""The rare terms of a corpus, counted passage by passage, or in parts of the corpus whose counts are joined.

Enters: passage texts in the order of the dump. Leaves: a test for the terms of few topics. The counts of one part of
the corpus can be joined with those of the next part, so many machines may count.
"""

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

LEAST, MOST = 3, 40
_SHARE = 0.005
_CLOSE = 15  # passages; about half a long article
_WORD = re.compile(r"\w+(?:['’.-]\w+)*")


class Seen(NamedTuple):
    """The counts of a word: its passages, those of them close after the one before, the first and the last."""

    passages: int
    close: int
    first: int
    last: int


def count(passages: Iterable[str]) -> tuple[dict[str, Seen], int]:
    """Return the counts of each lower-case word, with passages numbered from 0, and the number of passages."""
    seen: dict[str, Seen] = {}
    number = -1
    for number, passage in enumerate(passages):
        for word in {w.lower() for w in _WORD.findall(passage)}:
            before = seen.get(word)
            if before is None:
                seen[word] = Seen(1, 0, number, number)
            else:
                close = before.close + (number - before.last <= _CLOSE)
                seen[word] = Seen(before.passages + 1, close, before.first, number)
    return seen, number + 1


def join(parts: Iterable[Seen]) -> Seen:
    """Return the joined counts of all parts, which may come in any order and do not overlap."""
    first, *others = sorted(parts, key=lambda part: part.first)
    for part in others:
        close = first.close + part.close + (part.first - first.last <= _CLOSE)
        first = Seen(first.passages + part.passages, close, first.first, part.last)
    return first


def limit(total: int, share: float = _SHARE, least: int = LEAST, most: int = MOST) -> int:
    """Return the largest number of passages, of `total`, that a rare term may occur in."""
    return max(least, min(most, round(share * total)))


def is_term(seen: Seen, at_most: int, least: int = LEAST) -> bool:
    """Return whether a word is a rare term: `least` to `at_most` passages, half of them close after the one before."""
    return least <= seen.passages <= at_most and 2 * seen.close >= seen.passages


def tester(words: Iterable[str]) -> Callable[[str], bool]:
    """Return the test for these words that candidates.find takes."""
    kept = frozenset(words)
    return lambda word: word.lower() in kept
