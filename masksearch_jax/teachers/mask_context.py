"""What stands around a mask: its sentence, the names and words in it, and what a teacher can ask or plan with them.

Enters: the text of a masked passage, the number of a mask. Leaves: strings. A sentence ends where a capital follows a
full stop; a name is a run of capitalised words.
"""

import re

from masksearch_jax.teachers import evidence
from masksearch_jax.text import tags

_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z\[\"'(])")
_NAME = re.compile(r"[^\W\d_a-z][\w'’\-]+(?:\s+[^\W\d_a-z][\w'’\-]+)*")
_QUALIFIER = re.compile(r"(?<!\s)\s*\([^()]*\)$")
_WORD = re.compile(r"[^\W\d_]+(?:[-'’][^\W\d_]+)*")
_STOP = frozenset(
    """
    a an the and or but of in on at to for from by with as is are was were be been being has have had it its he she his
    her they them their this that these those which who whom whose there here into onto over under about after before
    during between also not no than then so such when where while both each other one two three four first second third
    later early until since own
    """.split()
)
_MONTHS = frozenset("january february march april may june july august september october november december".split())

# How many words of a sentence say what its mask is; more would mix in the other facts of a long sentence.
_NEAR = 3


def sentences(text: str) -> list[str]:
    return _SENTENCE.split(text)


def content_words(text: str) -> list[str]:
    """Return the lower-case words that carry meaning, in order, without names, numbers, months and function words."""
    return [w for w in _WORD.findall(text) if w == w.lower() and len(w) > 2 and w not in _STOP and w not in _MONTHS]


def own_words(text: str, index: int) -> list[str]:
    """Return the content words of a mask's sentence that stand nearest to the mask, nearest first."""
    sentence, place = mask_sentence(text, index)
    return nearest(sentence[:place], sentence[place + len(tags.MASK) :])[:_NEAR]


def nearest(before: str, after: str) -> list[str]:
    """Return the content words on both sides of a place in a text, nearest first."""
    left = [(before.rindex(w), w) for w in content_words(before.replace(tags.MASK, " "))]
    right = [(after.index(w), w) for w in content_words(after.replace(tags.MASK, " "))]
    return [w for _, w in sorted([(len(before) - at - len(w), w) for at, w in left] + right)]


def names(text: str) -> list[str]:
    """Return the runs of capitalised words, without leading function words ('In Karn' gives 'Karn') and months."""
    found = []
    for match in _NAME.finditer(text):
        words = match.group().split()
        while words and words[0].lower() in _STOP:
            words = words[1:]
        if words and not all(w.lower() in _MONTHS for w in words):
            found.append(" ".join(words))
    return found


def mask_place(text: str, index: int) -> int:
    """Return the character offset of mask number `index` (from 0) of `text`."""
    place = -1
    for _ in range(index + 1):
        place = text.index(tags.MASK, place + 1)
    return place


def mask_sentence(text: str, index: int) -> tuple[str, int]:
    """Return the sentence that holds mask number `index` (from 0) of `text`, and the mask's character offset in it."""
    place, start = mask_place(text, index), 0
    for border in _SENTENCE.finditer(text):
        if border.start() > place:
            return text[start : border.start()], place - start
        start = border.end()
    return text[start:], place - start


def sub_goal(text: str, index: int) -> str:
    """Return a step of the teacher's plan: the two words before the mask, which say what is missing ('born in').

    If its sentence has no word before the mask, they are the two words after it."""
    sentence, place = mask_sentence(text, index)
    before = _WORD.findall(sentence[:place].replace(tags.MASK, " "))[-2:]
    after = _WORD.findall(sentence[place + len(tags.MASK) :].replace(tags.MASK, " "))[:2]
    return " ".join(before or after)


def plan(text: str, first: int, masks: int, leading: int = 0) -> str:
    """Return the teacher's thought before a search: the steps that remain from mask `first` on ('born in; offices of').

    If `leading` is not 0, a step is that many words before its mask, in full, as the last thought will quote them. A
    policy that reads its last plan knows whether to go on or to answer, however many masks a passage has.
    """

    def step(index):
        before = text[: mask_place(text, index)]
        return evidence.leading(before, leading) if leading else sub_goal(text, index)

    return f"{tags.SPAN_SEPARATOR} ".join(map(step, range(first, masks)))


def subject_of(text: str, title: str, index: int) -> str:
    """Return the subject by which a reader of a masked passage can ask about mask `index`.

    It is the title of the article if the passage names it (without its '(film)'), else the name that stands nearest to
    the mask in its sentence, else the first name of the passage, '' if there is none."""
    plain = _QUALIFIER.sub("", title)
    if plain in text:
        return plain
    sentence, place = mask_sentence(text, index)
    before, after = sentence[:place], sentence[place + len(tags.MASK) :]
    near = [(place - before.rindex(name) - len(name), name) for name in names(before)]
    near += [(after.index(name), name) for name in names(after)]
    return min(near, key=lambda found: found[0])[1] if near else next(iter(names(text)), "")
