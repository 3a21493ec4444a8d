"""What stands around a mask, and what kind of thing it hides, so that a teacher can name a gap in words.

Enters: the text of a masked passage, the number of a mask, the kind of its span and its answer. Leaves: a `Gap`, with a
noun for what is missing ("year", "number of people", "person") and the words on both sides of the mask. The answer
decides the noun but is in no clue: a clue holds the passage's own words.
"""

import dataclasses
import re

from masksearch_jax.teachers import sentence_splitting
from masksearch_jax.text import clues, tags

_MONTH = (
    "(?:January|February|March|April|May|June|July|August|September|October|November|December"
    "|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\\.?"
)
_DAY = r"\d{1,2}(?:st|nd|rd|th)?"
# The first pattern that matches a whole date gives its noun.
_DATES = tuple(
    (re.compile(pattern, re.IGNORECASE), noun)
    for pattern, noun in (
        (r"(?:AD\s)?\d{1,4}(?:\s?(?:BCE?|CE|AD))?", "year"),
        (r"(?:AD\s)?\d{3,4}\s?[–/-]\s?\d{2,4}(?:\s?(?:BCE?|CE|AD))?", "range of years"),
        (r"(?:mid-)?\d{3,4}s", "decade"),
        (r".*(?:century|centuries|millennium).*", "century"),
        (rf"{_MONTH}(?:\sof)?,?\s\d{{4}}", "month and year"),
        (rf"(?:{_DAY}\s(?:of\s)?{_MONTH}|{_MONTH}\s{_DAY})", "day and month"),
    )
)
_CURRENCY = re.compile(r"[$£€¥₹]")
_PER_CENT = re.compile(r"^\s?(?:%|percent\b|per\scent\b)")
# A plural or a unit after a figure says what is counted.
_UNIT = re.compile(r"^\s(people|men|women|children|km|kg|m|cm|mm|feet|metres|[a-z]{3,}s)(?![\w-])")
_NO_UNIT = frozenset("was is has its this does as plus versus across towards always perhaps".split())
# Words right before a name that leave no doubt about what it names.
_PERSON = re.compile(
    r"\b(?:(?:directed|written|composed|portrayed|played|sung|co-written|co-directed) by|starring|stars"
    r"|(?:son|daughter|wife|husband|brother|sister|father|mother|widow|grandson|granddaughter) of|married(?: to)?)\s?$",
    re.IGNORECASE,
)
_PLACE = re.compile(
    r"\b(?:(?:born|died|buried|raised|located|situated|based|lives|lived|living|settled|headquartered) (?:in|at|near)"
    r"|(?:capital|city|town|village|district|province|municipality) of)\s?$",
    re.IGNORECASE,
)


@dataclasses.dataclass(frozen=True)
class Gap:
    """A mask as a teacher speaks of it.

    noun: what is missing, without an article. before, after: the text on both sides of the mask, to the ends of its
    sentence or to the next mask. lead: the last words before the mask (text/clues.py), also from earlier sentences."""

    noun: str
    before: str
    after: str
    lead: str = ""

    @property
    def a_noun(self) -> str:
        """The noun with its article: 'a year', 'an amount of money'."""
        return with_article(self.noun)

    def clue(self, words: int) -> str:
        """Return the mask with the last `words` words before it and the first `words` after it, as in the passage."""
        left = [m.start() for m in re.finditer(r"\S+", self.before)][-words:]
        right = [m.end() for m in re.finditer(r"\S+", self.after)][:words]
        before = self.before[left[0] :] if left else ""
        after = self.after[: right[-1]] if right else ""
        if not re.search(r"\w", after):  # the end of the sentence
            after = ""
        return f"{before}{tags.MASK}{after}".rstrip(" .,;:([")


def with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def gap_of(text: str, index: int, kind: str, answer: str, title: str = "") -> Gap:
    """Return the gap of mask number `index` (from 0) of `text`.

    kind, answer: the kind of its span, and the span. title: if the text begins with the title and a colon, these belong
    to the lead but to no sentence."""
    parts = text.split(tags.MASK)
    # Both sides end at a neighbouring mask, so that a clue holds one mask.
    before, after = tags.neutralise(parts[index]), tags.neutralise(parts[index + 1])
    lead, before = clues.leads(f"{before}{tags.MASK}")[0], before.removeprefix(f"{tags.neutralise(title)}: ")
    before = sentence_splitting.last(before)
    after = sentence_splitting.first(after)
    return Gap(noun_of(kind, answer, before, after), before, after, lead)


def noun_of(kind: str, answer: str, before: str = "", after: str = "") -> str:
    """Return a noun for a span of a kind (prep.spans.candidates.KINDS).

    before, after: the text of its sentence on both sides of it."""
    if kind == "date":
        return next((noun for pattern, noun in _DATES if pattern.fullmatch(answer)), "date")
    if kind == "number":
        if "%" in answer or _PER_CENT.match(after):
            return "percentage"
        if _CURRENCY.search(answer) or _CURRENCY.search(before[-2:]):
            return "amount of money"
        unit = _UNIT.match(after)
        return f"number of {unit[1]}" if unit and unit[1] not in _NO_UNIT else "number"
    if any(char.isupper() for char in answer):
        if _PERSON.search(before):
            return "person"
        return "place" if _PLACE.search(before) else "name"
    if kind == "name":
        return "name"
    return "word" if len(answer.split()) == 1 else "term"
