"""Cuts a cleaned article into passages of about 100 words at sentence borders, and keeps the link anchors.

A passage is whole sentences, joined by single spaces; a sentence is never split. Incomplete sentences (no capital at
the start, no full stop at the end: captions, lines around a dropped list) are left out. The words of a section are
shared evenly among its passages. A section that is too short for a passage of its own joins its neighbour.
"""

import dataclasses
import re

from masksearch_jax.prep.wiki import languages, sentence_borders
from masksearch_jax.prep.wiki.site_info import is_english
from masksearch_jax.prep.wiki.wikitext import Anchor, Document, moved_anchors

_ENDS = re.compile(r"[.!?…][\"'”’»)\]]*$")
_STARTS = re.compile(r"[\"'“‘«(\[¿¡$€£#*~−-]*(\w)")
# In words. Longer sentences are enumerations or mistakes of the splitter.
_LONGEST_SENTENCE = 150
# In characters per word, on average. Text with more is no prose. The limit bounds the size of a passage, and so the
# work of a span finder, which compares the words of a passage with each other.
_LONGEST_WORDS = 25


@dataclasses.dataclass(frozen=True)
class PassageText:
    """The text of one passage and its links; `text[a.start:a.end]` is the shown text of a link."""

    text: str
    anchors: list[Anchor]


@dataclasses.dataclass(frozen=True)
class _Sentence:
    text: str
    anchors: list[Anchor]  # offsets in `text`
    words: int


def cut(document: Document, title: str, words: int = 100, minimum: int = 40) -> list[PassageText]:
    """Return the passages of one article, in order.

    words: the approximate length of a passage. minimum: a section with fewer words is joined to the one before it (the
    first section to the one after it); an article with fewer words in total still gives one passage. title: a
    lower-case first word is accepted where it starts the title ('iPhone'). Raises ValueError for words < 1 or minimum >
    words.
    """
    if words < 1 or not 0 <= minimum <= words:
        raise ValueError(f"passages need words >= 1 and 0 <= minimum <= words, got words={words}, minimum={minimum}")
    sections: list[tuple[int, list[_Sentence]]] = []
    for paragraph in document.paragraphs:
        found = _whole_sentences(paragraph.text, paragraph.anchors, title, document.language)
        if not found:
            continue
        if not sections or sections[-1][0] != paragraph.section:
            sections.append((paragraph.section, []))
        sections[-1][1].extend(found)
    passages = []
    for group in _joined([group for _, group in sections], minimum):
        passages += [_passage(part) for part in _shares(group, words)]
    return passages


def _whole_sentences(text: str, anchors: list[Anchor], title: str, language: str) -> list[_Sentence]:
    """Return the complete sentences of one paragraph."""
    english = is_english(language)
    starts, ends = (_STARTS, _ENDS) if english else (languages.FIRST_LETTER, languages.LAST_MARK)
    found = []
    for start, end in sentence_borders.split(text, language):
        sentence = text[start:end]
        first = starts.match(sentence)
        lower = first is None or (first[1].islower() and sentence[:2].lower() != title[:2].lower())
        count = languages.count_words(sentence, language)
        if lower or not ends.search(sentence) or not 3 <= count <= _LONGEST_SENTENCE:
            continue
        if len(sentence) > _LONGEST_WORDS * count:
            continue
        found.append(_Sentence(sentence, moved_anchors(anchors, start, end, -start), count))
    return found


def _joined(groups: list[list[_Sentence]], minimum: int) -> list[list[_Sentence]]:
    """Join groups of fewer than `minimum` words to their neighbours."""
    joined: list[list[_Sentence]] = []
    last = 0  # the words of the last group
    for group in groups:
        words = _words(group)
        if joined and (words < minimum or last < minimum):
            joined[-1].extend(group)
            last += words
        else:
            joined.append(group)
            last = words
    return joined


def _words(group: list[_Sentence]) -> int:
    return sum(s.words for s in group)


def _shares(group: list[_Sentence], words: int) -> list[list[_Sentence]]:
    """Split sentences into round(total / words) runs, each border where the running sum is nearest its share."""
    total = _words(group)
    count = max(1, round(total / words))
    shares: list[list[_Sentence]] = [[]]
    done = 0
    for sentence in group:
        border = total * len(shares) / count
        if shares[-1] and len(shares) < count and done + sentence.words / 2 > border:
            shares.append([])
        shares[-1].append(sentence)
        done += sentence.words
    return shares


def _passage(part: list[_Sentence]) -> PassageText:
    """Join sentences with single spaces and move their anchors."""
    anchors = []
    length = 0
    for sentence in part:
        anchors += [Anchor(a.start + length, a.end + length, a.target) for a in sentence.anchors]
        length += len(sentence.text) + 1
    return PassageText(" ".join(s.text for s in part), anchors)
