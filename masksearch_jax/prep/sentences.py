"""Sentence borders in clean prose, by rules: text goes in, (start, end) character offsets come out.

Survives initials ('J. R. R. Tolkien'), titles ('Dr.'), decimals ('3.5'), acronyms ('U.S.'); never cuts inside
parentheses or quotation marks that close again. When in doubt it does not cut: two sentences in one cost nothing, half
a sentence is a malformed passage. The rules are those for English; for other languages the marks of every script end a
sentence, but a full stop after a short word or a day's number, which may be an abbreviation or an ordinal.
"""

import re

from masksearch_jax.prep import languages
from masksearch_jax.prep.site import is_english

_END = re.compile(r"[.!?…][\"'”’»)\]]*\s+(?=[\"'“‘«(\[¿¡]*\w)")
_WORD_BEFORE = re.compile(r"[\w.&'’-]*$")
# Abbreviations that a sentence never ends with, and those that it may.
_NEVER = set(
    """
    dr mr mrs ms st messrs prof rev hon gen col maj capt lt sgt cpl adm cmdr gov sen rep pres supt fr vs v c ca cf e.g
    i.e viz al no nos vol vols ch pp p fig figs art sec op ed eds trans approx est fl lit var sp spp subsp cca circa
    jan feb mar apr jun jul aug sep sept oct nov dec mt ft ste univ dept bros lat ger gk abbr
""".split()
)
_WORDS = {"art", "no", "fig", "lit", "sec", "est"}  # abbreviations that are words as well
_MAYBE = set("jr sr inc ltd co corp etc a.m p.m b.c a.d b.c.e c.e ph.d esq plc".split())
_OPENERS = set(
    """
    The In He She It They This These That Those His Her Its Their However After Before Since On At By From For With
    When While Although Though As There Some Many Most Both Each Such One Two If During Under Following Another Other
    Despite According We You But And So Its Thus Therefore Because Until
""".split()
)
_ACRONYM = re.compile(r"(?:[A-Za-z]\.)+[A-Za-z]")
# An opening quotation or parenthesis that has not closed after this many characters is taken as a slip.
_LONGEST_INSIDE = 700


def split(text: str, language: str = "en") -> list[tuple[int, int]]:
    """Returns the offsets of the sentences of one paragraph, in order, without the white space between them."""
    english = is_english(language)
    nesting, ends_sentence = (_nesting, _ends_sentence) if english else (_nesting_abroad, _ends_sentence_abroad)
    borders = []
    start = 0
    scanned = 0
    depth = quotes = 0
    for match in (_END if english else languages.SENTENCE_END).finditer(text):
        cut = match.end()
        depth, quotes = nesting(text[scanned:cut], depth, quotes)
        scanned = cut
        inside = depth > 0 or quotes % 2 == 1
        if (inside and cut - start < _LONGEST_INSIDE) or not ends_sentence(text, match):
            continue
        borders.append((start, cut))
        start = cut
        depth = quotes = 0
    borders.append((start, len(text)))
    trimmed = []
    for begin, end in borders:
        sentence = text[begin:end]
        left = len(sentence) - len(sentence.lstrip())
        if sentence.strip():
            trimmed.append((begin + left, begin + len(sentence.rstrip())))
    return trimmed


def _nesting(piece: str, depth: int, quotes: int) -> tuple[int, int]:
    """Carries the depth of parentheses and the number of open quotation marks over a piece of text."""
    for opening, closing in ("()", "[]"):
        if opening in piece or closing in piece:
            depth = max(0, depth + piece.count(opening) - piece.count(closing))
    curly = piece.count("“") - piece.count("”")
    return depth, quotes + piece.count('"') + (curly if curly else 0)


def _nesting_abroad(piece: str, depth: int, quotes: int) -> tuple[int, int]:
    """As `_nesting`, for the brackets of all scripts; quotation marks close in too many ways to be counted."""
    for opening, closing in languages.PAIRS:
        if opening in piece or closing in piece:
            depth = max(0, depth + piece.count(opening) - piece.count(closing))
    return depth, 0


def _ends_sentence_abroad(text: str, match: re.Match[str]) -> bool:
    following = text[match.end() : match.end() + 20].lstrip("\"'“‘«»„‚‹([¿¡")
    if following[:1].islower():
        return False
    if not match[0].startswith("."):
        # Without a space behind the closing mark the sentence around the quotation may go on.
        return match[0][-1] not in languages.CLOSERS
    before = _WORD_BEFORE.search(text, max(0, match.start() - 25), match.start())[0]
    if before.isdigit():
        return len(before) > 2
    return len(before) > 3 and "." not in before


def _ends_sentence(text: str, match: re.Match[str]) -> bool:
    """Decides whether the punctuation of `match` ends a sentence, from the words on both sides."""
    following = re.match(r"[\"'“‘«(\[¿¡]*(\w[\w'’-]*)(\.?)", text[match.end() : match.end() + 60])
    next_word = following[1] if following else ""
    if next_word[:1].islower():
        return False
    mark = match[0].rstrip()
    if mark != ".":
        # '!' and '?' end a sentence before a capital; a closing bracket or quote after '.' too.
        return True
    before = _WORD_BEFORE.search(text, max(0, match.start() - 25), match.start())[0].lstrip("'’-.")
    lower = before.lower()
    opener = next_word in _OPENERS and not (following and following[2])
    if lower in _NEVER:
        return opener and before in _WORDS
    if lower in _MAYBE:
        return opener or lower == "etc"
    if _ACRONYM.fullmatch(before):
        return opener
    if len(before) == 1 and before.isalpha():
        return opener
    return True
