"""Unicode normal forms and HTML references for text of any kind, without quadratic time and without errors.

`unicodedata.normalize` sorts the marks that follow a letter by insertion: 160 KB of marks take seven seconds.
`html.unescape` raises ValueError for a reference with more digits than Python reads as one number.
"""

import functools
import html
import re
import unicodedata
from typing import Literal, TypeAlias

Form: TypeAlias = Literal["NFC", "NFD", "NFKC", "NFKD"]
_LONGEST_RUN = 32  # no script stacks so many marks on a letter; shorter runs are sorted fast enough
_MARKS_END = 0x20000  # all combining marks stand in the first two planes
_LEADING_ZEROS = re.compile(r"(&#)0{6,}+")
_TOO_MANY_DIGITS = re.compile(r"&#[0-9]{9,}+;?")


def normal_form(form: Form, text: str) -> str:
    """Return `unicodedata.normalize(form, text)`, in time n log n for any text. form: NFC, NFD, NFKC or NFKD."""
    if text.isascii():
        return text
    if len(text) > _LONGEST_RUN:
        decomposed: Form = "NFD" if form in ("NFC", "NFD") else "NFKD"
        text = _run_of_marks(decomposed).sub(lambda run: _sorted_marks(run[0], decomposed), text)
    return unicodedata.normalize(form, text)


def unescape(text: str) -> str:
    """Return `html.unescape(text)`, with U+FFFD for a numeric reference beyond Unicode, however long it is."""
    if "&" not in text:
        return text
    if "&#" in text:
        text = _TOO_MANY_DIGITS.sub("\ufffd", _LEADING_ZEROS.sub(r"\1", text))
    return html.unescape(text)


def _sorted_marks(run: str, form: Form) -> str:
    """Return the marks in canonical order (a stable sort by combining class), which leaves nothing to sort."""
    marks = "".join(unicodedata.normalize(form, mark) for mark in run)
    return "".join(sorted(marks, key=unicodedata.combining))


@functools.cache
def _run_of_marks(form: Form) -> re.Pattern[str]:
    """Return the pattern of long runs of characters that NFD or NFKD (`form`) decomposes to combining marks alone."""
    marks = [
        re.escape(character)
        for character in map(chr, range(0x300, _MARKS_END))
        # A few vowel signs of Tibetan and half-width Katakana are no marks themselves but decompose to marks.
        if unicodedata.combining(character)
        or (unicodedata.decomposition(character) and unicodedata.combining(unicodedata.normalize(form, character)[0]))
    ]
    return re.compile(f"[{''.join(marks)}]{{{_LONGEST_RUN},}}+")
