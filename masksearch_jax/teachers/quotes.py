"""Where an observation states an answer: the sentence that a teacher quotes after it has read it.

Enters: the text of an observation as the policy sees it, the titles of its passages, an answer, and what is asked for.
Leaves: a `Quote`. Every quotation stands word for word in the observation.
"""

import dataclasses
import re
from collections.abc import Sequence

from masksearch_jax.teachers import sentences
from masksearch_jax.text import answers, tags

_FEWEST = 6  # words of a quotation that ends before its sentence does


@dataclasses.dataclass(frozen=True)
class Quote:
    """sentence: of the observation. start, end: characters in it where the answer, or the title that holds it, stands.
    shared: how many words it shares, with the title of its passage, with what was asked for."""

    sentence: str
    start: int
    end: int
    shared: int

    def around(self, words: int) -> str:
        """The sentence, or where it is longer than `words` words a part of it: from its start if that holds the answer,
        else with the answer in its last quarter; it ends with the answer's clause if that ends in time."""
        places = [m.span() for m in re.finditer(r"\S+", self.sentence)]
        if len(places) <= words:
            return self.sentence
        first, last = self._covered(places)
        # What stands before an answer says more of it than what stands after it.
        start = 0 if last < words else max(0, min(first, last + 1 - words + words // 4))
        longest = self.sentence[places[start][0] : places[max(last, min(len(places), start + words) - 1)][1]]
        covered = max(self.end, places[min(start + _FEWEST, len(places)) - 1][1]) - places[start][0]
        clause = re.search(r"[,;:](?=\s)", longest[covered:])
        return longest[: covered + clause.start()] if clause else longest.rstrip(" ,;:")

    def _covered(self, places: Sequence[tuple[int, int]]) -> tuple[int, int]:
        """The first and the last word that the answer touches."""
        inside = [i for i, (start, end) in enumerate(places) if start < self.end and end > self.start]
        return inside[0], inside[-1]


def find(shown: str, titles: Sequence[str], golds: Sequence[str], about: str, own_title: str = "") -> Quote | None:
    """Return the sentence that states one of `golds` and shares most words with `about`, the first among equals; None
    where no single sentence states it.

    shown: a decoded observation. titles: of the passages that it shows, in order. own_title: of the article that is
    asked about. Its words count for nothing, as most of what a search for it finds holds them; named in another article
    it counts as one word. A first sentence is quoted with the title before it where the answer is the title.
    """
    own = _without_brackets(own_title)
    wanted, best = sentences.content(about) - sentences.content(own_title), None
    for title, text in passages(shown, titles):
        for number, sentence in enumerate(sentences.split(text)):
            shared = len(wanted & sentences.content(f"{title} {sentence}"))
            shared += bool(own) and own in sentence and own not in title
            place = locate(sentence, golds)
            if place is None and number == 0 and locate(_without_brackets(title), golds):
                sentence, place = f"{title}: {sentence}", (0, len(title))
            if place and (best is None or shared > best.shared):
                best = Quote(sentence, *place, shared)
    return best


def nearest(shown: str, titles: Sequence[str], about: str) -> Quote | None:
    """Return the sentence that shares most words with `about`, as a quote of all of it; None for an empty
    observation."""
    wanted, best = sentences.content(about), None
    for title, text in passages(shown, titles):
        for number, sentence in enumerate(sentences.split(text)):
            shared = len(wanted & sentences.content(f"{title} {sentence}" if number == 0 else sentence))
            if best is None or shared > best.shared:
                best = Quote(sentence, 0, len(sentence), shared)
    return best


def passages(shown: str, titles: Sequence[str]) -> list[tuple[str, str]]:
    """Return (title, text) of each passage of a decoded observation, as far as it is shown."""
    body = shown
    for tag in tags.INFORMATION:
        body = body.replace(tag, "")
    starts, place = [], 0
    for title in titles:
        head = f" {tags.neutralise(title)}:"
        found = body.find(head, place)
        if title.strip() and found >= 0:
            place = found + len(head)
            starts.append((found, place, head[1:-1]))
    if not starts:
        return [("", body.strip())]
    ends = [start for start, _, _ in starts[1:]] + [len(body)]
    return [(title, body[begin:end].strip()) for (_, begin, title), end in zip(starts, ends, strict=True)]


def _without_brackets(title: str) -> str:
    return re.sub(r"\s*\([^()]*\)$", "", title)


def locate(sentence: str, golds: Sequence[str]) -> tuple[int, int] | None:
    """Return the characters of a sentence where one of `golds` stands: as it is spelled, else as answers are compared
    (text.answers.contains); None where none does."""
    for gold in golds:
        for flags in (0, re.IGNORECASE):
            if found := re.search(rf"(?<!\w){re.escape(gold)}(?!\w)", sentence, flags):
                return found.span()
    if not answers.contains(sentence, golds):
        return None
    places = [m.span() for m in re.finditer(r"\S+", sentence)]
    longest = max(len(answers.tokens(gold)) for gold in golds) + 2
    for size in range(1, longest + 1):
        for first in range(len(places) - size + 1):
            start, end = places[first][0], places[first + size - 1][1]
            if answers.contains(sentence[start:end], golds):
                return start, end
    return None
