"""Finds sentence borders in clean prose by rules: text goes in, (start, end) character offsets come out.

Initials ('J. R. R. Tolkien'), titles ('Dr.'), decimals ('3.5') and acronyms ('U.S.') do not end a sentence. There is no
cut inside parentheses or quotation marks that close again. In doubt there is no cut: two sentences in one cost nothing,
half a sentence is a malformed passage. These rules are for English. In other languages the marks of every script end a
sentence, except a full stop after a short word or a day's number, which may be an abbreviation or an ordinal.
"""

import re

from masksearch_jax.prep.wiki import languages
from masksearch_jax.prep.wiki.site_info import is_english

_END = re.compile(r"[.!?…][\"'”’»)\]]*\s+(?=[\"'“‘«(\[¿¡]*\w)")
# Matches at every place, if only the empty string.
_WORD_BEFORE = re.compile(r"[\w.&'’-]*$")
# Abbreviations that never end a sentence, and (_MAYBE) those that may.
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
# An opening quotation mark or parenthesis that has not closed after this many characters is taken as a mistake.
_LONGEST_INSIDE = 700


def split(text: str, language: str = "en") -> list[tuple[int, int]]:
    """Return the offsets of the sentences of one paragraph, in order, without the white space between them."""
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
    """Return the depth of parentheses and the count of quotation marks (odd: one is open) after more text."""
    for opening, closing in ("()", "[]"):
        if opening in piece or closing in piece:
            depth = max(0, depth + piece.count(opening) - piece.count(closing))
    curly = piece.count("“") - piece.count("”")
    return depth, quotes + piece.count('"') + (curly if curly else 0)


def _nesting_abroad(piece: str, depth: int, quotes: int) -> tuple[int, int]:
    """Return the same as `_nesting` for the brackets of all scripts; quotation marks have too many forms to count."""
    for pair in languages.PAIRS:
        opening, closing = pair[0], pair[1]
        if opening in piece or closing in piece:
            depth = max(0, depth + piece.count(opening) - piece.count(closing))
    return depth, 0


def _ends_sentence_abroad(text: str, match: re.Match[str]) -> bool:
    following = text[match.end() : match.end() + 20].lstrip("\"'“‘«»„‚‹([¿¡")
    if following[:1].islower():
        return False
    if not match[0].startswith("."):
        # Without a space after the closing mark, the sentence around the quotation may continue.
        return match[0][-1] not in languages.CLOSERS
    before = _word_before(text, match.start())
    if before.isdigit():
        return len(before) > 2
    return len(before) > 3 and "." not in before


def _ends_sentence(text: str, match: re.Match[str]) -> bool:
    """Return whether the punctuation of `match` ends a sentence, decided by the words on both sides."""
    following = re.match(r"[\"'“‘«(\[¿¡]*(\w[\w'’-]*)(\.?)", text[match.end() : match.end() + 60])
    next_word = following[1] if following else ""
    if next_word[:1].islower():
        return False
    mark = match[0].rstrip()
    if mark != ".":
        # '!' and '?' end a sentence before a capital; a closing bracket or quote after '.' too.
        return True
    before = _word_before(text, match.start()).lstrip("'’-.")
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


def _word_before(text: str, end: int) -> str:
    """Return what is left of the word, with its full stops, that ends at `end`; '' after a space."""
    found = _WORD_BEFORE.search(text, max(0, end - 25), end)
    return found[0] if found else ""
