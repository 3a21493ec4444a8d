"""Where an observation states an answer: the sentence that a teacher quotes after reading.

Enters: the text of an observation as the policy sees it, the titles of its passages, an answer, and what is asked for.
Leaves: a `Quote`. Every quotation stands word for word in the observation.
"""

import dataclasses
import re
from collections.abc import Sequence

from masksearch_jax.scoring import answer_metrics
from masksearch_jax.teachers import sentence_splitting
from masksearch_jax.text import tags

_FEWEST = 6  # the fewest words of a quotation that ends before its sentence does


@dataclasses.dataclass(frozen=True)
class Quote:
    """A sentence of an observation.

    sentence: its text. start, end: characters in it where the answer, or the title that holds it, stands. shared: how
    many words the sentence and the title of its passage share with what was asked for."""

    sentence: str
    start: int
    end: int
    shared: int

    def around(self, words: int) -> str:
        """Return the sentence, or a part of it if it is longer than `words` words.

        The part begins at the start of the sentence if it then holds the answer, else it begins so late that a quarter
        of its words follow the answer, as far as there are any. It ends with the answer's clause if that ends in time.
        """
        places = [m.span() for m in re.finditer(r"\S+", self.sentence)]
        if len(places) <= words:
            return self.sentence
        first, last = self._covered(places)
        # The words before an answer say more about it than the words after it.
        start = 0 if last < words else max(0, min(first, last + 1 - words + words // 4))
        longest = self.sentence[places[start][0] : places[max(last, min(len(places), start + words) - 1)][1]]
        covered = max(self.end, places[min(start + _FEWEST, len(places)) - 1][1]) - places[start][0]
        clause = re.search(r"[,;:](?=\s)", longest[covered:])
        return longest[: covered + clause.start()] if clause else longest.rstrip(" ,;:")

    def _covered(self, places: Sequence[tuple[int, int]]) -> tuple[int, int]:
        """Return the numbers (from 0) of the first and the last word that the answer touches."""
        inside = [i for i, (start, end) in enumerate(places) if start < self.end and end > self.start]
        return inside[0], inside[-1]


def find(shown: str, titles: Sequence[str], golds: Sequence[str], about: str, own_title: str = "") -> Quote | None:
    """Return the sentence that states one of `golds` and shares the most words with `about`, None if there is none.

    The first one wins a tie. shown: a decoded observation. titles: those of the passages that it shows, in order.
    own_title: that of the article that is asked about. Its words do not count, because most of what a search for it
    finds holds them; where another article names the title, it counts as one word. If the answer is the title of a
    passage, its first sentence is quoted with the title before it.
    """
    own = _without_brackets(own_title)
    wanted, best = sentence_splitting.content(about) - sentence_splitting.content(own_title), None
    for title, text in passages(shown, titles):
        for number, sentence in enumerate(sentence_splitting.split(text)):
            shared = len(wanted & sentence_splitting.content(f"{title} {sentence}"))
            shared += bool(own) and own in sentence and own not in title
            place = locate(sentence, golds)
            if place is None and number == 0 and locate(_without_brackets(title), golds):
                sentence, place = f"{title}: {sentence}", (0, len(title))
            if place and (best is None or shared > best.shared):
                best = Quote(sentence, *place, shared)
    return best


def nearest(shown: str, titles: Sequence[str], about: str) -> Quote | None:
    """Return the sentence that shares the most words with `about`, as a quote of all of it.

    The result is None for an empty observation."""
    wanted, best = sentence_splitting.content(about), None
    for title, text in passages(shown, titles):
        for number, sentence in enumerate(sentence_splitting.split(text)):
            shared = len(wanted & sentence_splitting.content(f"{title} {sentence}" if number == 0 else sentence))
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
    """Return (start, end) of one of `golds` in a sentence, in characters, None if none stands there.

    It is looked for as it is spelled, then as answers are compared (scoring.answer_metrics.contains)."""
    for gold in golds:
        for flags in (0, re.IGNORECASE):
            if found := re.search(rf"(?<!\w){re.escape(gold)}(?!\w)", sentence, flags):
                return found.span()
    if not answer_metrics.contains(sentence, golds):
        return None
    places = [m.span() for m in re.finditer(r"\S+", sentence)]
    longest = max(len(answer_metrics.tokens(gold)) for gold in golds) + 2
    for size in range(1, longest + 1):
        for first in range(len(places) - size + 1):
            start, end = places[first][0], places[first + size - 1][1]
            if answer_metrics.contains(sentence[start:end], golds):
                return start, end
    return None
