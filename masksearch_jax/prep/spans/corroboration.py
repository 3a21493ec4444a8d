"""A test for spans that a search can find in a corpus of thousands of passages, since another passage states them.

Enters: the passages of a corpus, a span finder. Leaves: a test of spans. In all of Wikipedia most facts occur more than
once. In a small corpus most occur once, and a mask is then out of reach if its source is excluded from the search. A
span of a passage passes if its words occur in another passage together with a clue: the title, or a name that the
masked passage shows. That other passage must be in the index that the split of the span searches (training passages for
a training mask, all passages for a test mask). A name that occurs in more than RARE passages leads nowhere and is no
clue. Words are compared as answers are (answer_metrics.tokens).
"""

import collections
import functools
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from masksearch_jax.data import records
from masksearch_jax.prep.spans import annotated_passages, candidates
from masksearch_jax.prep.splits import SPLITS
from masksearch_jax.scoring import answer_metrics

RARE = 10  # passages

_SEARCHED = {"train": ("train",), "validation": ("train", "validation"), "test": SPLITS}
_QUALIFIER = re.compile(r"(?<!\s)\s*\([^()]*\)$")

Words = tuple[str, ...]


def tester(data_dir: Path, finder: candidates.SpanFinder) -> Callable[[records.Passage, candidates.Span], bool]:
    """Return the test for the passages of `data_dir`, after reading all of them twice.

    Memory: the words of every candidate and of every name, with the passages that contain them.
    """
    wanted = set()
    for passage, anchors, categories, infobox in annotated_passages.with_links(data_dir):
        found = finder(passage.text, passage.title, anchors, categories, infobox)
        wanted |= {_words(passage.text[span.start : span.end]) for span in found}
        wanted |= {words for words, _, _ in _clues(passage)}
    stated = holders(annotated_passages.old(data_dir), wanted)

    def is_corroborated(passage: records.Passage, span: candidates.Span) -> bool:
        def others(words: Words) -> set[int]:
            return set().union(*(stated[words][split] for split in _SEARCHED[passage.split])) - {passage.id}

        masked = _words(passage.text[span.start : span.end])
        answering = others(masked)
        if not answering:
            return False
        for words, start, end in _clues(passage):
            shown = (end <= span.start or span.end <= start) and not set(words) <= set(masked)
            if shown and len(found := others(words)) <= RARE and found & answering:
                return True
        return False

    return is_corroborated


def holders(passages: Iterable[records.Passage], wanted: set[Words]) -> dict[Words, dict[str, set[int]]]:
    """Return {words: {split: ids of the passages that contain them in a row, titles included}} for the wanted words."""
    longest = max(map(len, wanted), default=0)
    stated: dict[Words, dict[str, set[int]]] = collections.defaultdict(lambda: collections.defaultdict(set))
    for passage in passages:
        words = _words(f"{passage.title} {passage.text}")
        rows = {words[at : at + n] for n in range(1, longest + 1) for at in range(len(words) - n + 1)}
        for row in rows & wanted:
            stated[row][passage.split].add(passage.id)
    return stated


@functools.lru_cache(maxsize=1)  # the spans of a passage are tested one after the other
def _clues(passage: records.Passage) -> list[tuple[Words, int, int]]:
    """Return the words of the title and of each name in the text, with their text offsets (0, 0 for the title)."""
    names = ((passage.text[name.start : name.end], name.start, name.end) for name in candidates.names(passage.text))
    return [(_words(words), start, end) for words, start, end in ((_QUALIFIER.sub("", passage.title), 0, 0), *names)]


def _words(text: str) -> Words:
    return tuple(answer_metrics.tokens(text))
