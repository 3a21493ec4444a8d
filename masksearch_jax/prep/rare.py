"""Which words are rare terms of a corpus, counted passage by passage or by parts of the corpus that are joined.

Enters: passage texts in the order of the dump. Leaves: a test for the terms of few topics. What is counted of a part
of the corpus can be joined with that of the part behind it, so that many machines may count.
"""

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

LEAST, MOST = 3, 40
_SHARE = 0.005
_CLOSE = 15  # passages; about half a long article
_WORD = re.compile(r"\w+(?:['’.-]\w+)*")


class Seen(NamedTuple):
    """Where a word stands: in how many passages, how many of them close behind the one before, first and last one."""

    passages: int
    close: int
    first: int
    last: int


def count(passages: Iterable[str]) -> tuple[dict[str, Seen], int]:
    """Returns what is seen of each lower-case word, with passages numbered from 0, and how many passages there were."""
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
    """Returns what is seen in all parts, which are given in any order and do not overlap."""
    first, *others = sorted(parts, key=lambda part: part.first)
    for part in others:
        close = first.close + part.close + (part.first - first.last <= _CLOSE)
        first = Seen(first.passages + part.passages, close, first.first, part.last)
    return first


def limit(total: int, share: float = _SHARE, least: int = LEAST, most: int = MOST) -> int:
    """Returns in how many of `total` passages a rare term may stand."""
    return max(least, min(most, round(share * total)))


def is_term(seen: Seen, at_most: int, least: int = LEAST) -> bool:
    """Tells a rare term: `least` to `at_most` passages, half of which lie close behind the one before."""
    return least <= seen.passages <= at_most and 2 * seen.close >= seen.passages


def tester(words: Iterable[str]) -> Callable[[str], bool]:
    """Returns the test for these words, which spans.find takes."""
    kept = frozenset(words)
    return lambda word: word.lower() in kept
