"""Spans that a search can find, in a corpus of thousands of passages: what another passage states of the same names.

Enters: the passages of a corpus, a span finder. Leaves: a test of spans. In all of Wikipedia most facts stand more than
once; in a small corpus most stand once, and a mask whose source is kept from the search is then out of reach. A span of
a passage passes if its words stand in another passage of the index that its split searches (a training mask in a
training passage, a test mask anywhere) together with a clue: the title, or a name that the masked passage shows. A name
that stands in more than RARE passages leads nowhere and is no clue. Words are compared as answers are
(text.answers.tokens).
"""

import collections
import functools
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from masksearch_jax.data import records
from masksearch_jax.prep import annotated, spans
from masksearch_jax.prep.splits import SPLITS
from masksearch_jax.text import answers

RARE = 10  # passages

_SEARCHED = {"train": ("train",), "validation": ("train", "validation"), "test": SPLITS}
_QUALIFIER = re.compile(r"(?<!\s)\s*\([^()]*\)$")

Words = tuple[str, ...]


def tester(data_dir: Path, finder: spans.SpanFinder) -> Callable[[records.Passage, spans.Span], bool]:
    """Returns the test for the passages of `data_dir`, after reading them all twice; holds the words of every candidate
    and of every name in memory, with the passages that state them."""
    wanted = set()
    for passage, anchors, categories, infobox in annotated.with_links(data_dir):
        found = finder(passage.text, passage.title, anchors, categories, infobox)
        wanted |= {_words(passage.text[span.start : span.end]) for span in found}
        wanted |= {words for words, _, _ in _clues(passage)}
    stated = holders(annotated.old(data_dir), wanted)

    def elsewhere(passage: records.Passage, span: spans.Span) -> bool:
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

    return elsewhere


def holders(passages: Iterable[records.Passage], wanted: set[Words]) -> dict[Words, dict[str, set[int]]]:
    """Returns by split in which passages, titles included, the wanted words stand in a row."""
    longest = max(map(len, wanted), default=0)
    stated: dict[Words, dict[str, set[int]]] = collections.defaultdict(lambda: collections.defaultdict(set))
    for passage in passages:
        words = _words(f"{passage.title} {passage.text}")
        rows = {words[at : at + n] for n in range(1, longest + 1) for at in range(len(words) - n + 1)}
        for row in rows & wanted:
            stated[row][passage.split].add(passage.id)
    return stated


@functools.lru_cache(maxsize=1)  # the spans of a passage are asked about one after the other
def _clues(passage: records.Passage) -> list[tuple[Words, int, int]]:
    """The words of the title and of each name in the text, and where in the text they stand (the title at 0)."""
    names = ((passage.text[name.start : name.end], name.start, name.end) for name in spans.names(passage.text))
    return [(_words(words), start, end) for words, start, end in ((_QUALIFIER.sub("", passage.title), 0, 0), *names)]


def _words(text: str) -> Words:
    return tuple(answers.tokens(text))
