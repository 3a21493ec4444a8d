"""Turns wikitext into clean paragraphs: the text a reader sees, link anchors as character offsets, categories, infobox.

It works by linear passes over tokens instead of a parser: they are three to six times as fast as mwparserfromhell, and
unbalanced markup cannot swallow the page. The passes, in order: comments; tags whose content is no prose (ref, math,
table, ...), by pairing their tokens; templates, links and tables, by one scan with a stack, inner ones first; quotes,
external links, entities; lines, of which headings, lists and tables are left out. Last, one pass over each paragraph
writes text and anchors together, so the offsets are exact by construction.

Where something shown is lost (a formula, an unknown template), the clause in parentheses or the sentence around it is
dropped rather than left with a hole. A sentence is dropped as well if it still contains markup, ends in ':' before a
dropped list, or has unbalanced parentheses. `Document.dropped` counts those sentences.
"""

import dataclasses
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable
from operator import attrgetter

from masksearch_jax.prep.wiki import markup, sentence_borders
from masksearch_jax.prep.wiki.site_info import ENGLISH, Site, is_english
from masksearch_jax.prep.wiki.templates import (
    BREAK,
    HOLE,
    LINK_CLOSE,
    LINK_MIDDLE,
    LINK_OPEN,
    LITERAL_QUOTE,
    PRONUNCIATION,
)
from masksearch_jax.text.normal_forms import normal_form, unescape

_SKIPPED_SECTIONS = set(
    "references,notes,notes and references,references and notes,external links,see also,further reading,bibliography,"
    "sources,footnotes,citations,works cited,gallery,selected bibliography,discography,filmography,"
    "cited works,citations and notes,notes and citations,references and sources,cited sources,"
    "primary sources,secondary sources,select bibliography,external links and references,list of works,"
    "related pages,endnotes,references and further reading,other websites,selected works,image gallery".split(",")
)
_NOT_PROSE = ("*", "#", ";", ":", "|", "!", "{|", "----", "<")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff\ue000-\uf8ff]")
# A link that a line break cut in two has no end here. No pattern looks for that end beyond the next link.
_LINK = re.compile(f"{LINK_OPEN}([^{LINK_OPEN}{LINK_MIDDLE}]*){LINK_MIDDLE}([^{LINK_OPEN}{LINK_CLOSE}]*){LINK_CLOSE}")
_TRAIL = re.compile(r"[a-z]+")
_TRAIL_ABROAD = re.compile(r"[^\W\d_]+")  # only in lower case; scripts without case write no trails
# What a scan for parentheses stops at: whole links, parentheses, and the opening of a link without an end.
_WHOLE_LINK = f"{LINK_OPEN}[^{LINK_OPEN}{LINK_CLOSE}]*{LINK_CLOSE}"
_STOP = re.compile(rf"{_WHOLE_LINK}|[(){LINK_OPEN}]")
_PARENTHESIS = re.compile(r"[()]")
_CLAUSE = re.compile(rf"(?:{_WHOLE_LINK}|[^;])+")
_SUBCLAUSE = re.compile(rf"(?:{_WHOLE_LINK}|[^,])+")
_LOST = re.compile(f"[{HOLE}{PRONUNCIATION}]")
_RESIDUE = re.compile(
    r"\{\{|\}\}|\[\[|\]\]|''|\{\||\|\}|</?[a-zA-Z][^<>]*>|<ref|\(\s*+[,;]*+\s*+\)"
    r"|https?://|\|\s*\w+\s*=|__[A-Z]+__|" + "|".join(rf"\x0{code}" for code in range(9))
)
_LOOSE = [f" {mark}" for mark in ",;:.!?)"]


@dataclasses.dataclass(frozen=True)
class Anchor:
    """A link: `text[start:end]` of its paragraph is its shown text, `target` the title of the article it leads to."""

    start: int
    end: int
    target: str


@dataclasses.dataclass(frozen=True)
class Paragraph:
    """One paragraph of prose. `section` counts the headings before it, so equal numbers mean one section."""

    text: str
    anchors: list[Anchor]
    section: int = 0


@dataclasses.dataclass(frozen=True)
class Document:
    """An article's prose, categories (without 'Category:') and infobox entries (field, shown value), in page order.

    dropped: number of sentences left out because something in them could not be shown. language: of the wiki, as in
    xml:lang.
    """

    paragraphs: list[Paragraph]
    categories: list[str]
    infobox: list[tuple[str, str]]
    dropped: int = 0
    language: str = ENGLISH.language


def clean(wikitext: str, title: str, site: Site = ENGLISH) -> Document:
    """Return the readable part of one page, in time linear in its length. Never raises on malformed wikitext.

    site: the wiki of the page, which decides the names of its namespaces and how its sentences end.
    """
    if _CONTROL.search(wikitext):
        wikitext = _CONTROL.sub(lambda m: "\n" if m[0] == "\x85" else "", wikitext)
    page = markup.resolve(normal_form("NFC", wikitext.replace("\r\n", "\n")), title, site)
    paragraphs = []
    dropped = 0
    for section, line in _prose(_inline(page.text)):
        paragraph, lost = _paragraph(line, title, section, site.language)
        dropped += lost
        if paragraph is not None:
            paragraphs.append(paragraph)
    infobox = [(field, shown) for field, value in page.infobox if (shown := _shown(value, title))]
    categories = list(dict.fromkeys(unescape(c) for c in page.categories))
    return Document(paragraphs, categories, infobox, dropped, site.language)


def _inline(text: str) -> str:
    """Resolve what stands inside lines: HTML tags, external links, quotes, entities."""
    text = markup.strip_tags(text)
    if BREAK in text:
        first, *others = text.split(BREAK)
        inner = (part.strip(" \t") for part in others[:-1])
        text = "\n\n".join([first.rstrip(" \t"), *inner, others[-1].lstrip(" \t")])
    text = markup.external_links(text)
    text = markup.quotes(text)
    text = unescape(text).replace(LITERAL_QUOTE, "'")
    if _INVISIBLE.search(text):
        text = _INVISIBLE.sub("", text)
    return text


def _prose(text: str) -> list[tuple[int, str]]:
    """Return (section, text) of each paragraph. Consecutive lines are one paragraph, as in MediaWiki."""
    found: list[tuple[int, str]] = []
    lines: list[str] = []
    section = 0
    skipped_level = 7  # the heading level of the skipped section that the line is in; 7: none
    for line in [*text.split("\n"), ""]:
        shown = line.strip()
        heading = _heading(shown)
        is_prose = (
            heading is None
            and shown.strip(HOLE + PRONUNCIATION + " ") != ""
            and not shown.startswith(_NOT_PROSE)
            and not (line.startswith(" ") and len(shown) < 100)  # preformatted: code, verse, ASCII drawings
        )
        if is_prose:
            lines.append(shown)
            continue
        if lines and skipped_level == 7:
            found.append((section, " ".join(lines)))
        lines = []
        if heading is not None:
            section += 1
            level, name = heading[0], _plain(heading[1]).strip(" .:'").lower()
            if level <= skipped_level:
                skipped_level = level if name in _SKIPPED_SECTIONS else 7
    return found


def _heading(line: str) -> tuple[int, str] | None:
    """Return (level, text) of a heading, None for other lines. It has equally many '=' on both sides, at most six."""
    if not line.startswith("="):
        return None
    left, right = len(line) - len(line.lstrip("=")), len(line) - len(line.rstrip("="))
    level = min(left, right, 6, len(line) // 2)
    return (level, line[level:-level].strip()) if level else None


def _plain(text: str) -> str:
    """Return marked text without its markers."""
    return _LOST.sub("", _LINK.sub(lambda m: m[2], text))


def _paragraph(line: str, title: str, section: int, language: str) -> tuple[Paragraph | None, int]:
    """Build text and anchors of one paragraph; return it (None if nothing is left) and the dropped sentences' count."""
    line = _tidy(line)
    text, anchors = _anchored(line, title, language)
    if not any(c.isalpha() for c in text):
        return None, 0
    borders = sentence_borders.split(text, language)
    kept = [b for b in borders if _is_sound(text[b[0] : b[1]])]
    if len(kept) == len(borders) and borders[0][0] == 0 and borders[-1][1] == len(text):
        return Paragraph(text, anchors, section), 0
    parts, moved = [], []
    length = 0
    for start, end in kept:
        moved += moved_anchors(anchors, start, end, length - start)
        parts.append(text[start:end])
        length += end - start + 1
    if not parts:
        return None, len(borders)
    return Paragraph(" ".join(parts), moved, section), len(borders) - len(kept)


def moved_anchors(anchors: list[Anchor], start: int, end: int, shift: int) -> list[Anchor]:
    """Return the anchors inside text[start:end], moved by `shift`. `anchors` are in the order of the text."""
    found = []
    for place in range(bisect_left(anchors, start, key=attrgetter("start")), len(anchors)):
        anchor = anchors[place]
        if anchor.start >= end:
            break
        if anchor.end <= end:
            found.append(Anchor(anchor.start + shift, anchor.end + shift, anchor.target))
    return found


def _is_sound(sentence: str) -> bool:
    """Return whether a sentence is whole: no markup, no hole, paired parentheses, not the head of a dropped list."""
    if HOLE in sentence or sentence.endswith((":", "(", "[")) or _RESIDUE.search(sentence):
        return False
    return sentence.count("(") == sentence.count(")") and sentence.count("[") == sentence.count("]")


def _tidy(line: str) -> str:
    """Collapse white space and remove what dropped markup leaves behind: empty parentheses, doubled commas."""
    line = _single_spaced(line)
    if HOLE in line:
        line = _forgive(line)
    if "(" in line:
        for _ in range(3):  # nested parentheses, innermost first
            tidied = _each_parentheses(line, _tidy_parentheses)
            if tidied == line:
                break
            line = tidied
    if PRONUNCIATION in line:  # those in parentheses were removed with their clause
        line = re.sub(rf"\b([Pp]ron\w*:?|as|IPA:?) {PRONUNCIATION}", rf"\1 {HOLE}", line).replace(PRONUNCIATION, "")
        line = _single_spaced(line)
    if "[" in line:
        line = re.sub(r" ?\[ *(?:[.…]{1,3} *)?\]", "", line)
    line = re.sub(r"([“\"]) *([”\"])(?=\W)", lambda m: "" if m[1] + m[2] != '""' else m[0], line)
    if any(loose in line for loose in _LOOSE):
        line = re.sub(r"(?<! ) +([,;:.!?)])(?=[ ,;:.)]|$)", r"\1", line)
    line = re.sub(r"([,;])(?: ?[,;])+", r"\1", line)
    if ",." in line or ";." in line or ":." in line:
        line = re.sub(r"[,;:]\.(?=\s|$)", ".", line)
    line = line.replace("( ", "(").replace(" )", ")")
    return " ".join(line.split())


def _single_spaced(line: str) -> str:
    """Return the line with each run of white space as one space; four times as fast as with a pattern."""
    spaced = " ".join(line.split())
    return f"{' ' * line[:1].isspace()}{spaced}{' ' * line[-1:].isspace()}" if spaced else line[:1] and " "


def _forgive(line: str) -> str:
    """Drop the holes that nobody misses: at the start of the line, and after a finished word, like a footnote mark."""
    line = re.sub(rf"^[ {HOLE}]+", "", line)
    line = re.sub(rf"(?<=[\w.,;:!?)\]\"'”’{LINK_CLOSE}]){HOLE}+(?=[\s.,;:)]|$)", "", line)
    return re.sub(rf"(?<=[.!?\"”)]) {HOLE}+(?= [A-Z\"“({LINK_OPEN}]|$)", "", line)


def _each_parentheses(line: str, tidy: Callable[[str, str], str]) -> str:
    """Replace each innermost pair of parentheses, with the space before it, by tidy(space, inside).

    A link inside a pair is taken as a whole, whatever parentheses it contains. Parentheses inside a link that is in no
    pair are pairs as well.
    """
    parts: list[str] = []
    position = 0
    for opening, closing in _pairs(line):
        if opening < position:
            continue
        start = opening - (opening > position and line[opening - 1] == " ")
        parts += [line[position:start], tidy(line[start:opening], line[opening + 1 : closing])]
        position = closing + 1
    return "".join([*parts, line[position:]])


def _pairs(line: str) -> Iterable[tuple[int, int]]:
    """Return the positions of '(' and ')' of all pairs with only text and whole links between, ordered by the '('.

    A scan that starts inside a link leaves it at the link's end, so the stop after the link is the same for all such
    scans.
    """
    stops = list(_STOP.finditer(line))
    found = []
    after = -1  # the ')' at which a scan that starts after this stop would end, or -1
    for stop in reversed(stops):
        shown = stop[0]
        if len(shown) == 1:
            if shown == "(" and after >= 0:
                found.append((stop.start(), after))
            after = stop.start() if shown == ")" else -1
            continue
        inner = after
        for match in reversed(list(_PARENTHESIS.finditer(line, stop.start(), stop.end()))):
            if match[0] == "(" and inner >= 0:
                found.append((match.start(), inner))
            inner = match.start() if match[0] == ")" else -1
    return reversed(found)


def _tidy_parentheses(lead: str, inside: str) -> str:
    """Keep the whole clauses of a parenthesis; drop the parenthesis if there are none."""
    if not _LOST.search(inside) and re.match(r"[\w\"'“]", inside) and inside[-1:] not in " ,;":
        return f"{lead}({inside})"
    clauses = []
    for clause in _CLAUSE.findall(inside):
        if _LOST.search(clause):
            clause = ",".join(part for part in _SUBCLAUSE.findall(clause) if not _LOST.search(part))
        clause = clause.strip(" ,")
        if any(c.isalnum() or ord(c) > 0x2000 for c in _LINK.sub(lambda m: m[2], clause)) or re.search(
            r"\S", _plain(clause)
        ):
            clauses.append(clause)
    inside = "; ".join(clauses)
    return f"{lead}({inside})" if inside.strip(" ;,") else ""


def _anchored(line: str, title: str, language: str = ENGLISH.language) -> tuple[str, list[Anchor]]:
    """Return the line's text and its anchors, written in one pass. Anchors exclude white space at both ends."""
    trail_of = _TRAIL if is_english(language) else _TRAIL_ABROAD
    parts: list[str] = []
    anchors: list[Anchor] = []
    length = position = 0
    for match in _LINK.finditer(line):
        before = line[position : match.start()]
        shown = match[2]
        position = match.end()
        if (trail := trail_of.match(line, position)) and trail[0].islower():  # [[bus]]es links 'buses'
            shown += trail[0]
            position = trail.end()
        # Spaces on both sides of a border would be two spaces.
        if shown.startswith(" ") and before.endswith(" "):
            shown = shown.lstrip()
        if shown.endswith(" ") and line[position : position + 1] == " ":
            shown = shown.rstrip()
        bare = shown.strip()
        start = length + len(before) + len(shown) - len(shown.lstrip())
        parts += [before, shown]
        length += len(before) + len(shown)
        target = _target(match[1], title)
        if bare and target:
            anchors.append(Anchor(start, start + len(bare), target))
    parts.append(line[position:])
    return "".join(parts), anchors


def _target(raw: str, title: str) -> str:
    """Return the title a link leads to, as the dump writes titles, or '' if it leads to no other article."""
    name = unescape(raw).partition("#")[0].replace("_", " ").strip().lstrip(":").strip()
    name = name[:1].upper() + name[1:]
    return "" if name == title else name


def _shown(value: str, title: str) -> str:
    """Return an infobox value as plain text, with list items joined by ', '."""
    value = re.sub(r"<br\b[^<>]*>", ", ", value, flags=re.IGNORECASE)
    value = re.sub(r"(?:^|\n)\s*[*#:]+\s*", ", ", value)
    text = _anchored(_tidy(_inline(value).replace("\n", " ")), title)[0]
    text = text.replace(HOLE, " ").strip(" ,;")
    return "" if _RESIDUE.search(text) else re.sub(r"(?<!\s)\s*,(?:\s*,)+\s*", ", ", re.sub(r" {2,}", " ", text))
