"""Salient spans of a passage, which a RAMP task may mask, found by rules.

Enters: passage text with its link anchors, and the article's title, categories and infobox. Leaves: spans with kind and
character offsets, sorted and without overlaps. The kinds follow the paper's salient spans (section on RAMP): 'link'
(entities and terms that a writer linked), 'date', 'number', 'name' (runs of capitalised words), 'category' (terms of
the article's categories and infobox: the paper's ontologies), 'rare' (words that few passages contain).
agents/span_finder.py asks a language model for spans instead, behind the same `SpanFinder`; its spans go through the
same `select`.

A span is no candidate if a reader of the masked passage could fill it in without a search (leakage.py). It is no
candidate either if it is no unit of its own: part of a word, more than eight words, only stop words, or a single
letter.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from masksearch_jax.prep.spans import leakage, quantities
from masksearch_jax.prep.spans import rare_terms as counts
from masksearch_jax.prep.wiki import languages
from masksearch_jax.prep.wiki.site_info import is_english
from masksearch_jax.prep.wiki.wikitext import Anchor

KINDS = ("link", "date", "number", "name", "category", "rare")
LONGEST = 8  # words
LONGEST_SPACELESS = 24  # characters

# Where spans overlap, the kind that comes first here wins; among equal kinds the longer span, then the earlier one. A
# date that covers a link or equals it is a date ('[[14 March]] [[1823]]').
_PREFERENCE = {
    kind: place for place, kind in enumerate(("date over link", "link", "date", "number", "category", "name", "rare"))
}

_WORD = re.compile(r"\w+(?:['’.-]\w+)*")
_NAME_WORD = r"(?:[A-Z]\.(?:[A-Z]\.)*(?=\s)|[^\W\d_a-z]\w*(?:['’-]\w+)*)"
_PARTICLES = "of,de la,de los,de,del,della,di,da,do,dos,du,van der,van den,van,von der,von,zu,la,le,al,bin,ibn,ben,y,e"
_PARTICLE = "(?:of the|" + _PARTICLES.replace(",", "|") + ")"
_NAME = re.compile(rf"(?<![\w'’.°-]){_NAME_WORD}(?:(?:\s{_PARTICLE})?\s{_NAME_WORD}(?!\w))*")
_NOT_IN_NAMES = re.compile(
    rf"^(?:{quantities.MONTHS}|Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday|[IVXLC]+|BCE?|AD|CE)$"
)
_MAY_OPEN_NAMES = {"new", "early", "late", "first", "second", "one", "two", "modern"}
_SENTENCE_START = re.compile(r"(?:^|[.!?:…][\"'”’)\]]*\s)[\"'“‘(\[]*$")
# Endings of verbs, adverbs, adjectives and units of measurement.
_NO_TERM = re.compile(r".*(?:ly|ing|ed|able|ible|ful|less|ward|wards|like|wise|met(?:er|re)s?|grams?|lit(?:er|re)s?)$")
_RARE_WORD = re.compile(r"(?<![\w'’.-])[a-z]{5,}(?:-[a-z]{3,})?(?![\w'’-])")
_CATEGORY_TAIL = re.compile(r"\b(?:from|in|of|by|at|for|to|about|based in|established in|founded by)\s+(.+)$")
_ADMINISTRATIVE = re.compile(
    r"\b(?:stubs?|articles?|pages?|wikipedia|births|deaths|living people|templates?|cs1|webarchive)\b", re.I
)
_ITEMS = re.compile(r"\s*(?:[,;•·\n]|\s[–—-]\s|\bto\b|\()\s*")
# Adjectives have a capital, but are no names to search for.
_ADJECTIVE = re.compile(
    r".*(?:ian|ians|ean|ese|ish|cans?|ism|ists?|i[sz]ed|ic|western|eastern|northern|southern)$"
    r"|(?:german|dutch|french|greek|arab|swis|jew|czech|thai|turk|finn|dane|roman|muslim|soviet|catholic|protestant)s?$"
    r"|(?:north|south|east|west|central|middle|early|late|old|new|modern|ancient|upper|lower|great)$",
    re.I,
)
_DEMONYMS = frozenset(
    """
    african american arabic armenian asian austrian british canadian chinese christian danish dutch egyptian english
    european french german greek hebrew hungarian indian iranian irish islamic italian japanese jewish korean latin
    muslim norwegian ottoman persian polish portuguese roman russian scottish soviet spanish swedish swiss turkish
    ukrainian welsh western eastern northern southern afghan azeri bangladeshi bengali byzantine iraqi israeli kuwaiti
    pakistani punjabi saudi somali vietnamese yemeni byzantines afghans iraqis israelis
""".split()
)
_POSSESSIVE = re.compile(r"['’]s?$")


@dataclasses.dataclass(frozen=True)
class Span:
    """A candidate for a mask: passage[start:end], in characters, of one of KINDS."""

    start: int
    end: int
    kind: str


class SpanFinder(Protocol):
    """Interface of a finder of salient spans: `functools.partial(find, rare=...)`, or one that asks a model."""

    def __call__(
        self,
        passage_text: str,
        title: str,
        anchors: Sequence[Anchor],
        categories: Sequence[str],
        infobox: Sequence[tuple[str, str]],
    ) -> list[Span]: ...


def find(
    passage_text: str,
    title: str,
    anchors: Sequence[Anchor],
    categories: Sequence[str],
    infobox: Sequence[tuple[str, str]],
    rare: Callable[[str], bool] | None = None,
    language: str = "en",
) -> list[Span]:
    """Return the candidate spans of one passage, sorted by start, without overlaps.

    anchors: links with offsets in `passage_text`. categories, infobox: of the whole article, as wiki/wikitext.py reads
    them. rare: returns whether a lower-case word is rare in the corpus (see `rare_terms`); None finds no rare words.
    language: for other languages than English, only links and terms of the categories and the infobox are found.
    """
    if not is_english(language):
        links = (_trimmed(passage_text, a.start, a.end) for a in anchors if _names_target_abroad(passage_text, a))
        found = [*(Span(*place, "link") for place in links), *_ontology(passage_text, categories, infobox)]
        return select(passage_text, title, found, language)
    candidates = [
        *_links_and_dates(passage_text, anchors),
        *(Span(*_trimmed(passage_text, *place), "number") for place in quantities.numbers(passage_text)),
    ]
    named = names(passage_text)
    # The whole name is the candidate: 'Washington' in 'George Washington' could be guessed from the first name.
    terms = _ontology(passage_text, categories, infobox)
    candidates += named
    candidates += [
        t
        for t in terms
        if not any(n.start <= t.start and t.end <= n.end and n.end - n.start > t.end - t.start for n in named)
    ]
    if rare is not None:
        candidates += [
            Span(m.start(), m.end(), "rare")
            for m in _RARE_WORD.finditer(passage_text)
            if rare(m[0]) and not _NO_TERM.match(m[0])
        ]
    return select(passage_text, title, candidates)


def select(passage_text: str, title: str, candidates: Iterable[Span], language: str = "en") -> list[Span]:
    """Return the candidates that are units and cannot be guessed from the rest of the passage, sorted by start.

    The candidates may come from any finder. Where some overlap, the first by _PREFERENCE is kept.
    """
    rest = leakage.Rest(passage_text, title)
    chosen: list[Span] = []
    taken = bytearray(len(passage_text))
    for span in sorted(candidates, key=lambda s: (_PREFERENCE[s.kind], s.start - s.end, s.start)):
        if not _is_unit(passage_text, span, languages.is_spaceless(language)) or any(taken[span.start : span.end]):
            continue
        # A span that can be guessed still blocks its place, since a part of it could be guessed as well.
        taken[span.start : span.end] = b"\x01" * (span.end - span.start)
        if not is_english(language) and _is_repeated(passage_text, title, span):
            continue
        if not rest.is_leaked(span.start, span.end, span.kind in ("date", "date over link", "number")):
            chosen.append(dataclasses.replace(span, kind=span.kind.partition(" ")[0]))
    return sorted(chosen, key=lambda s: s.start)


def rare_terms(passages: Iterable[str], share: float = 0.005, least: int = 3, most: int = 40) -> Callable[[str], bool]:
    """Return a test for terms of few topics, words in `least` to max(`least`, min(`most`, share * passages)) passages.

    `passages` come in the order of the dump. The passages of a term of one field lie close together (half of them at
    most 15 passages after the one before: rare_terms.py); those of an everyday word that is merely uncommon are spread
    out. A word of only one passage is no term: with the source passage excluded from search, nothing could be found.
    Memory: one entry for each different word.
    """
    seen, total = counts.count(passages)
    limit = counts.limit(total, share, least, most)
    return counts.tester(word for word, found in seen.items() if counts.is_term(found, limit, least))


def _links_and_dates(text: str, anchors: Sequence[Anchor]) -> list[Span]:
    """Return links and dates. A date that covers a whole link outranks it."""
    links = [_trimmed(text, a.start, a.end) for a in anchors if _names_target(text[a.start : a.end], a.target)]
    dates = quantities.dates(text)
    found = []
    for start, end in dates:
        over = any(start <= s and e <= end for s, e in links)
        found.append(Span(start, end, "date over link" if over else "date"))
    figures = {_trimmed(text, *place) for place in quantities.numbers(text)}
    return found + [Span(s, e, "number" if (s, e) in figures else "link") for s, e in links]


def _names_target_abroad(text: str, anchor: Anchor) -> bool:
    """Return whether a link of another language names its target: it does not start in lower case, or shares a stem."""
    shown = text[anchor.start : anchor.end]
    words = [_WORD.findall(leakage.fold(one)) for one in (shown, anchor.target)]
    return not shown[:1].islower() or any(leakage.same_stem(a, b) for a in words[0] for b in words[1])


def _is_repeated(text: str, title: str, span: Span) -> bool:
    """Return whether the title or the rest of the passage contains the span, with any ending, or it the title."""
    shown, title, text = (leakage.fold(one) for one in (text[span.start : span.end], title, text))
    return shown in title or title in shown or text.count(shown) > 1


def _names_target(shown: str, target: str) -> bool:
    """Return whether a link names its target; links such as 'book of that title', 'earliest' or 'Greek' do not.

    A link in lower case must share a stem with the target's title. Adverbs are no names, and neither are adjectives
    that link to their noun ('Bulgarian' to 'Bulgaria').
    """
    if shown.lower() in _DEMONYMS or (shown[:1].islower() and re.search(r"ly\b", shown)):
        return False
    if not shown[:1].islower():
        return len(shown.split()) > 1 or shown == target or not _ADJECTIVE.match(shown)
    words = [w for w in _WORD.findall(leakage.fold(shown)) if w not in leakage.STOP_WORDS]
    wanted = _WORD.findall(leakage.fold(target))
    return any(leakage.same_stem(a, b) for a in words for b in wanted)


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """Return the offsets without white space, quotation marks, stray punctuation and a possessive at the ends."""
    while start < end and text[start] in " \"'“”‘’«»,;:":
        start += 1
    while start < end and text[end - 1] in " \"'“”‘’«»,;:":
        end -= 1
    if possessive := _POSSESSIVE.search(text, start, end):
        end = possessive.start()
    return start, end


def _ontology(text: str, categories: Sequence[str], infobox: Sequence[tuple[str, str]]) -> list[Span]:
    """Return the places where a term of the article's categories or infobox occurs in the passage."""
    found = []
    lower = text.lower()
    for term, pattern in _terms(tuple(categories), tuple(infobox)):
        if term not in lower:  # most terms do not occur, and this test is fifty times as fast as the pattern
            continue
        for match in pattern.finditer(text):
            if not quantities.DATE.fullmatch(match[0]):
                found.append(Span(match.start(), match.end(), "category"))
    return found


@functools.lru_cache(maxsize=8)  # the passages of an article come one after the other
def _terms(categories: tuple[str, ...], infobox: tuple[tuple[str, str], ...]) -> list[tuple[str, re.Pattern[str]]]:
    """Return an article's ontology terms in lower case, each with the pattern that finds it as whole words.

    'Members of the Royal Society' gives itself and 'Royal Society'; 'Alkali metals' gives 'Alkali metal' as well; an
    infobox value gives the whole value and its items.
    """
    terms: set[str] = set()
    for category in categories:
        if _ADMINISTRATIVE.search(category):
            continue
        terms.add(category)
        if tail := _CATEGORY_TAIL.search(category):
            terms.add(re.sub(r"^the ", "", tail[1]))
        if category.endswith("s") and not category.endswith("ss"):
            terms.add(category[:-3] + "y" if category.endswith("ies") else category[:-1])
    for _, shown in infobox:
        terms.update(_ITEMS.split(shown.replace(")", "")))
        terms.add(shown)
    patterns = []
    for term in sorted({t.strip(" .") for t in terms}):
        if len(term) < 4 or not any(c.isalpha() for c in term) or len(term.split()) > LONGEST:
            continue
        # A common noun may be in lower case in the prose, a name may not.
        is_name = any(c.isupper() for c in term[1:])
        first = re.escape(term[0]) if is_name else f"(?:{re.escape(term[0].lower())}|{re.escape(term[0].upper())})"
        patterns.append((term.lower(), re.compile(rf"(?<!\w){first}{re.escape(term[1:])}(?!\w)")))
    return patterns


def names(text: str) -> list[Span]:
    """Return runs of capitalised words that are likely names.

    A single word must not open a sentence or be an adjective.
    """
    found = []
    for match in _NAME.finditer(text):
        words = [(m.start() + match.start(), m.end() + match.start()) for m in re.finditer(r"\S+", match[0])]
        opens = bool(_SENTENCE_START.search(text[max(0, match.start() - 4) : match.start()]))
        for place in range(1, len(words)):  # 'in the U.S. The next'
            if text[words[place - 1][1] - 1] == "." and text[slice(*words[place])].lower() in leakage.STOP_WORDS:
                words = words[:place]
                break
        # 'In Paris' is a name after a preposition, 'Karn Velith was' a name that opens the sentence.
        while words and text[words[0][0] : words[0][1]].lower() in leakage.STOP_WORDS - _MAY_OPEN_NAMES:
            words, opens = words[1:], False
        # 'Provisions of ANCSA': the first word has its capital only because it opens the sentence.
        if opens and len(words) > 1 and text[words[1][0]].islower():
            words = words[1:]
            while words and text[words[0][0]].islower():
                words = words[1:]
        if not words:
            continue
        first, last = words[0][0], words[-1][1]
        shown = text[first:last]
        if any(_NOT_IN_NAMES.match(text[s:e]) for s, e in words) or not all(c.isalpha() or c in " .'’-" for c in shown):
            continue
        quoted = text[max(0, match.start() - 1) : match.start()] in ('"', "“", "‘")  # the first word of a quotation
        if len(words) == 1 and (opens or quoted or len(shown) < 4):
            continue
        if any("\u0370" <= c <= "\u1dff" or c > "\u2e7f" for c in shown):  # a name repeated in another script
            continue
        if all(_ADJECTIVE.match(text[s:e]) or text[s:e].lower() in _DEMONYMS for s, e in words):
            continue
        found.append(Span(*_trimmed(text, first, last), "name"))
    return found


def _is_unit(text: str, span: Span, spaceless: bool = False) -> bool:
    """Return whether a span is a unit: whole words, at most LONGEST, balanced brackets, and something to search for.

    spaceless: whether the script has no spaces between words, so that its letters show no borders of words.
    """
    shown = text[span.start : span.end]
    if not shown or len(shown.split()) > LONGEST or (spaceless and len(shown) > LONGEST_SPACELESS):
        return False
    before, after = text[max(0, span.start - 2) : span.start], text[span.end : span.end + 2]
    if spaceless:
        before = before if (before + shown)[len(before) - 1 : len(before) + 1].isascii() else ""
        after = after if (shown + after)[len(shown) - 1 : len(shown) + 1].isascii() else ""
    if before[-1:].isalnum() or after[:1].isalnum():
        return False
    if (before[-1:] in ("-", "'", "’") and before[:1].isalnum()) or (after[:1] == "-" and after[1:].isalnum()):
        return False
    if after[:1] in ("'", "’") and after[1:].isalnum() and not re.match(r"['’]s\b", text[span.end : span.end + 3]):
        return False
    if any(shown.count(a) != shown.count(b) for a, b in ("()", "[]", "“”", "«»")) or shown.count('"') % 2:
        return False
    words = [w.lower() for w in _WORD.findall(shown)]
    if not words or all(w in leakage.STOP_WORDS for w in words):
        return False
    return any(c.isdigit() for c in shown) or sum(c.isalpha() for c in shown) >= 2
