"""Splits text into sentences, well enough for a quotation.

A capital after a full stop begins a new sentence, unless the stop belongs to an initial, a title or an abbreviation.

Enters: text. Leaves: parts of it, unchanged. Left out: languages without capitals.
"""

import re

from masksearch_jax.scoring import answer_metrics

_BORDER = re.compile(r"(?<=[.!?])(?:[\"”’')\]]+)?\s+(?=[\"“‘'(\[]*[^\W\d_a-z])")
# What may end in a full stop within a sentence.
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\"“])(?:[A-Z]|(?:[A-Z]\.)+[A-Z]?|Mr|Mrs|Ms|Dr|St|Ste|Mt|Ft|Lt|Col|Gen|Capt|Maj|Sgt|Cmdr|Adm|Prof|Rev|Hon"
    r"|Gov|Sen|Rep|Pres|Fr|vs|Vol|No|Nos|pp?|ca?|[bdr]|fl|e\.g|i\.e|cf|approx)\.$"
)
_STOP = frozenset(
    """
    and or but of in on at to for from by with as is are was were be been being has have had it its he she his her they
    them their this that these those which who whom whose there into over under about after before during between also
    not no than then so such when where while both each other until since mask one two first second
    """.split()
)


def borders(text: str) -> list[tuple[int, int]]:
    """Return (end of a sentence, start of the next one) for each pair of neighbours, in characters."""
    return [
        match.span() for match in _BORDER.finditer(text)
        if not _ABBREVIATION.search(text[max(0, match.start() - 12) : match.start()])
    ]  # fmt: skip


def split(text: str) -> list[str]:
    """Return the sentences of a text, without the whitespace between them."""
    starts, ends = [0], []
    for end, start in borders(text):
        # Closing quotation marks before the whitespace belong to the sentence.
        ends.append(end + len(text[end:start].rstrip()))
        starts.append(start)
    return [part for start, end in zip(starts, [*ends, len(text)], strict=True) if (part := text[start:end].strip())]


def first(text: str) -> str:
    """Return the beginning of a text up to the end of its first sentence."""
    found = borders(text)
    return text[: found[0][0]] if found else text


def last(text: str) -> str:
    """Return the end of a text from the start of its last sentence on."""
    found = borders(text)
    return text[found[-1][1] :] if found else text


def content(text: str) -> set[str]:
    """Return the words of a text that carry meaning, in the form in which answers are compared."""
    return set(answer_metrics.tokens(text)) - _STOP
