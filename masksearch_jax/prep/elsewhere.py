"""Spans that another passage states too: what a search can find, in a corpus of thousands of passages.

Enters: the passages of a corpus, a span finder. Leaves: a test of spans. In all of Wikipedia most facts stand more than
once; in a small corpus most stand once, and a mask whose source is kept from the search is then out of reach. A span of
a passage passes if its words, compared as answers are (text.answers.normalize), stand in a second passage of the index
that its split searches: a training mask in a training passage, a test mask anywhere.
"""

import collections
from collections.abc import Callable, Iterable
from pathlib import Path

from masksearch_jax.data import records
from masksearch_jax.prep import annotated, spans
from masksearch_jax.prep.splits import SPLITS
from masksearch_jax.text import answers

_SEARCHED = {"train": ("train",), "validation": ("train", "validation"), "test": SPLITS}

Words = tuple[str, ...]


def tester(data_dir: Path, finder: spans.SpanFinder) -> Callable[[records.Passage, spans.Span], bool]:
    """Returns the test for the passages of `data_dir`, after reading them all twice; holds every candidate's words in
    memory."""
    wanted = {
        _words(passage.text[span.start : span.end])
        for passage, anchors, categories, infobox in annotated.with_links(data_dir)
        for span in finder(passage.text, passage.title, anchors, categories, infobox)
    }
    stated = count(annotated.old(data_dir), wanted)

    def elsewhere(passage: records.Passage, span: spans.Span) -> bool:
        found = stated[_words(passage.text[span.start : span.end])]
        return sum(found[split] for split in _SEARCHED[passage.split]) > 1

    return elsewhere


def count(passages: Iterable[records.Passage], wanted: set[Words]) -> dict[Words, collections.Counter[str]]:
    """Returns in how many passages of each split, titles included, the wanted words stand in a row."""
    longest = max(map(len, wanted), default=0)
    stated: dict[Words, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for passage in passages:
        words = _words(f"{passage.title} {passage.text}")
        rows = {words[at : at + n] for n in range(1, longest + 1) for at in range(len(words) - n + 1)}
        for row in rows & wanted:
            stated[row][passage.split] += 1
    return stated


def _words(text: str) -> Words:
    return tuple(answers.normalize(text).split())
