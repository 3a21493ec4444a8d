"""A test whether a reader could fill in a masked span from the rest of its passage, without a search.

Enters: a passage, its title and the offsets of a span. Leaves: a verdict. The rules look at the text only and use no
model. They err on the side of 'yes': a lost candidate costs nothing, while a mask that can be copied from the next
sentence trains a policy not to search.
"""

import functools
import re
import unicodedata
from bisect import bisect_left
from typing import NamedTuple

from masksearch_jax.text.normal_forms import normal_form

STOP_WORDS = frozenset(
    """
    a an the and or but nor if then than so as at by for from in into of off on onto out over per to up upon via with
    within without about above after against along among around before behind below beneath beside between beyond down
    during except inside like near outside since through throughout toward towards under until is are was were be been
    being am has have had do does did will would shall should can could may might must he she it they we you i him her
    them us me his hers its their theirs our ours your yours my mine this that these those who whom whose which what
    when where why how there here not no yes all any both each few more most other others some such only own same too
    very also just even still yet once again ever never always often one two first second later however although
    though because while whereas thus hence therefore many much several another either neither every part new early
    late modern today sometimes unlike despite according besides amid
""".split()
)
# Words that many names share: one of them elsewhere in the passage leaks nothing.
_GENERIC = frozenset(
    """
    university college school institute academy society association company corporation committee council court church
    cathedral museum library hospital government republic kingdom empire state states united national international
    union party house city town county province district region island islands river lake mountain mountains sea ocean
    bay north south east west northern southern eastern western central great new old saint st san king queen prince
    princess emperor president prime minister lord sir lady duke earl count general army navy war battle treaty act
    law movement revolution history language languages people peoples award awards prize world century age day group
    system theory award film series book novel journal press bank street avenue park bridge station airport league
    club team cup games american british ancient modern royal federal public high mount fort port dynasty period era
    order department ministry office
""".split()
)
# Pairs of adjective and country that share no stem.
_IRREGULAR = {
    "french": "france", "dutch": "netherlands", "greek": "greece", "spanish": "spain", "danish": "denmark",
    "welsh": "wales", "turkish": "turkey", "polish": "poland", "swiss": "switzerland", "finnish": "finland",
    "irish": "ireland",
    "scottish": "scotland", "english": "england", "british": "britain", "swedish": "sweden", "germans": "germany",
    "greeks": "greece", "thai": "thailand", "czech": "czechoslovakia", "chinese": "china", "flemish": "flanders",
}  # fmt: skip
_RELATED: dict[str, list[str]] = {}
for _adjective, _country in _IRREGULAR.items():
    _RELATED.setdefault(_adjective, []).append(_country)
    _RELATED.setdefault(_country, []).append(_adjective)
_NEGATION = re.compile(r"^(?:non-?|un|in|im|ir|dis|anti-?)(?=\w)")
_SHARED = 5  # the least number of letters that two forms of one stem share
_TOKEN = re.compile(r"\w+(?:[.,]\d+)*")
_ACRONYM = re.compile(r"(?<!\w)[A-Z](?:\.?[A-Z]){1,5}s?(?!\w)")
_SPELLED = dict(
    zip("one two three four five six seven eight nine ten eleven twelve".split(), map(str, range(1, 13)), strict=True)
)


@functools.lru_cache(maxsize=1 << 16)
def fold(text: str) -> str:
    """Return the text in lower case without accents. Text of other scripts keeps its letters."""
    lower = text.lower()
    if lower.isascii():
        return lower
    folded = normal_form("NFKD", lower.replace("ʻ", "").replace("’", "'"))
    return "".join(c for c in folded if not unicodedata.combining(c))


class _Token(NamedTuple):
    start: int
    end: int
    word: str  # folded
    capital: bool


class Rest:
    """The rest of one passage, as seen from any of its spans."""

    def __init__(self, text: str, title: str):
        self._text = text
        self._tokens = [_Token(m.start(), m.end(), fold(m[0]), m[0][0].isupper()) for m in _TOKEN.finditer(text)]
        self._starts, self._ends = [t.start for t in self._tokens], [t.end for t in self._tokens]
        self._by_stem: dict[str, list[_Token]] = {}
        self._by_beginning: dict[str, list[_Token]] = {}
        for token in self._tokens:
            self._by_stem.setdefault(_stem(token.word), []).append(token)
            if len(token.word) >= _SHARED:
                self._by_beginning.setdefault(token.word[:_SHARED], []).append(token)
        self._acronyms = [(m.start(), m.end(), m[0].replace(".", "").rstrip("s")) for m in _ACRONYM.finditer(text)]
        self._title = [fold(w) for w in _TOKEN.findall(re.sub(r"(?<!\s)\s*\([^()]*\)$", "", title))]

    def is_leaked(self, start: int, end: int, figures: bool) -> bool:
        """Return whether text[start:end] can be guessed from the title or from the passage around it.

        figures: for dates and numbers, which leak only if every figure is repeated elsewhere. Any other span leaks if
        the whole of it is repeated; if a distinctive word of it is repeated (a surname, a place; also in another form,
        such as Algeria and Algerian); if half of the content words of a lower-case term are repeated; if the title
        contains such a word; or if the passage contains its acronym, or the words that it abbreviates.
        """
        inside = self._tokens[bisect_left(self._ends, start + 1) : bisect_left(self._starts, end)]
        if figures:
            digits = [t for t in inside if any(c.isdigit() for c in t.word)] or inside
            return all(self._repeated(t.word, start, end) or t.word in self._title for t in digits)
        content = [t for t in inside if t.word not in STOP_WORDS] or inside
        if len(content) == 1 and content[0].word in _GENERIC:  # 'the Party', 'the Council': the full name is elsewhere
            return True
        hits = [self._repeated(t.word, start, end) or self._related(t.word, start, end) for t in content]
        distinctive = [t.capital and t.word not in _GENERIC for t in content]
        if all(hits) or any(hit and own for hit, own in zip(hits, distinctive, strict=True)):
            return True
        if not any(distinctive) and 2 * sum(hits) >= len(content):
            return True
        titled = [t for t in content if any(same_stem(t.word, w) for w in self._title if w not in STOP_WORDS)]
        if len(titled) == len(content) or any(t.word not in _GENERIC for t in titled):
            return True
        return self._abbreviated(start, end, content)

    def _repeated(self, word: str, start: int, end: int) -> bool:
        """Return whether the word, or its plural, occurs outside the span."""
        return any(t.start >= end or t.end <= start for t in self._by_stem.get(_stem(word), ()))

    def _related(self, word: str, start: int, end: int) -> bool:
        """Return whether another form of the word occurs outside: Carthage and Carthaginians, French and France."""
        if word in _GENERIC:
            return False
        positive = _NEGATION.sub("", word)  # 'social and nonsocial'
        if positive != word and len(positive) > 3 and self._repeated(positive, start, end):
            return True
        if any(self._repeated(other, start, end) for other in _RELATED.get(word, ())):
            return True
        return any(
            (t.start >= end or t.end <= start) and t.word not in STOP_WORDS and same_stem(word, t.word)
            for t in self._by_beginning.get(word[:_SHARED], ())
        )

    def _abbreviated(self, start: int, end: int, content: list[_Token]) -> bool:
        """Return whether the span's acronym occurs outside it, or the span is an acronym of words outside it."""
        shown = self._text[start:end]
        if len(content) > 1:
            initials = {"".join(t.word[0] for t in content), "".join(t.word[0] for t in content if t.capital)}
            if any((s >= end or e <= start) and letters.lower() in initials for s, e, letters in self._acronyms):
                return True
        if not _ACRONYM.fullmatch(shown):
            return False
        letters = shown.replace(".", "").rstrip("s").lower()
        if _is_spread_over(letters, "".join(self._title)):
            return True
        around = [t for t in self._tokens if (t.start >= end or t.end <= start) and t.word not in STOP_WORDS]
        capitals = "".join(t.word[0] for t in around if t.capital)
        run = "".join(t.word[0] for t in around)
        return letters in capitals or any(
            around[m.start()].capital for m in re.finditer(f"(?={re.escape(letters)})", run)
        )


def _is_spread_over(letters: str, words: str) -> bool:
    """Return whether an acronym's letters occur in a title in their order, starting with its first letter (ANOVA)."""
    remaining = iter(words)
    return words[:1] == letters[:1] and all(letter in remaining for letter in letters)


@functools.lru_cache(maxsize=1 << 16)
def _stem(word: str) -> str:
    """Return a word without its plural or possessive ending; return a spelled number as its figure."""
    if word in _SPELLED:
        return _SPELLED[word]
    for ending, kept in (("ies", 3), ("es", 4), ("s", 3)):
        if word.endswith(ending) and not word.endswith("ss") and len(word) - len(ending) >= kept and word.isalpha():
            return word[: -len(ending)] + ("y" if ending == "ies" else "e" if ending == "es" else "")
    return word


def same_stem(word: str, other: str) -> bool:
    """Return whether two folded words are likely forms of one stem: a long common beginning and short endings."""
    if word == other or _stem(word) == _stem(other):
        return True
    if word[:_SHARED] != other[:_SHARED] or not (word.isalpha() and other.isalpha()):
        return False
    shared = 0
    for a, b in zip(word, other, strict=False):
        if a != b:
            break
        shared += 1
    shorter, longer = sorted((len(word), len(other)))
    return shared >= _SHARED and shared >= 0.7 * shorter and longer - shared <= 5
