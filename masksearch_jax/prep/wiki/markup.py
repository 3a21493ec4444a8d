"""The structure of wikitext, resolved in linear time: templates, links and tables, after comments and block tags.

Enters: wikitext, from which block_tags.py first removes comments and block tags. Leaves: text in which links are marked
with control characters, templates are replaced by what they show (templates.py), and tables, files and notes are
removed; also categories and infobox entries. Unclosed markup costs the line it stands in, never the rest of the page.
No input takes more than linear time (nesting is capped). Left out: lines and paragraphs (wikitext.py).
"""

import dataclasses
import re
from collections.abc import Callable

from masksearch_jax.prep.wiki import block_tags, templates
from masksearch_jax.prep.wiki.site_info import CATEGORY, ENGLISH, FILE, Site
from masksearch_jax.prep.wiki.templates import BREAK, HOLE, LINK_CLOSE, LINK_MIDDLE, LINK_OPEN

_BREAKING = re.compile(
    r"</?(?:blockquote|div|p|center|hr|h[1-6]|li|dd|dt|tr|td|th)\b[^<>]*>|(?:<br\b[^<>]*>\s*){2,}", re.I
)
_INLINE_NAMES = """span small big b i u em strong font code tt kbd samp var cite q abbr dfn bdi bdo ins sup sub mark
 ruby rb rp rt onlyinclude includeonly noinclude section ref references nowiki math gallery source syntaxhighlight pre
 poem s del strike table tbody ol ul dl caption col colgroup time data wbr indicator templatestyles a img nobr hiero
 score"""
_INLINE_TAG = re.compile(rf"</?(?:{'|'.join(_INLINE_NAMES.split())})\b[^<>]*>", re.I)
_SUP = re.compile(r"<(sup|sub)\b[^<>/]*>([^<>\n]{0,40})</\1\s*>", re.I)
_LINE_BREAK = re.compile(r"<br\b[^<>]*>", re.I)
_EXTERNAL = re.compile(r"\[(?:https?:|ftps?:|mailto:|irc:|news:)?//[^\s\[\]<>\"]*+[ \t]*+([^\[\]\n]*)\]", re.I)
_BARE_URL = re.compile(r"\bhttps?://[^\s\[\]<>\"]++", re.I)
_QUOTES = re.compile(r"'{2,}")
_BEHAVIOUR = re.compile(r"__[A-Z]{3,}__")
_TOKEN = re.compile(r"\{\{|\}\}|\[\[(?!\[)|\]\]|^[ \t:]*\{\||^[ \t]*\|\}(?!\}(?!\}))", re.MULTILINE)
_TOKEN_OUTSIDE_TABLES = re.compile(r"\{\{|\}\}|\[\[(?!\[)|\]\]")  # a search for it is three times as fast
_FILE = re.compile(r"\s*+(?:file|image|media|video)\s*:", re.I)
_CATEGORY = re.compile(r"\s*+category\s*:\s*", re.I)
# Links to other wikis: [[de:Titel]] is a side-bar entry, [[wikt:word|word]] shows text but leads out of the corpus. No
# space follows their colon, unlike in 'CSI: Miami'.
_LANGUAGE = re.compile(r"(?:[a-z]{2,3}|simple|[a-z]{2,3}-[a-z-]{2,10}|be-x-old|tokipona):(?=\S)")
_PREFIXES = """wikt wiktionary s wikisource q wikiquote b wikibooks n wikinews v wikiversity voy wikivoyage species
 wikispecies commons c d wikidata m meta mw w:[a-z-]+ wikipedia wp template help portal user special talk project draft
 module book rfc doi pmid hdl category file image"""
_ELSEWHERE = re.compile(rf":?\s*+(?:(?:{'|'.join(_PREFIXES.split())})\s*:(?!\s)|[a-z]{{2,3}}:(?=\S))", re.I)
_INFOBOX = re.compile(r"infobox|taxobox|speciesbox|chembox|drugbox|automatic taxobox|geobox")
# Fields of an infobox that contain no terms of the subject: pictures, layout, coordinates, codes, addresses.
_UNTOLD_FIELDS = """image caption logo map flag coat seal photo width size alt$ website url lat long ref footnote
 colou?r signature style class$ embed module type$ rank _ns _ew coord sound file code note align below above title$
 text$ symbol prefix pp"""
_UNTOLD = re.compile("|".join(_UNTOLD_FIELDS.split()))
_DEEPEST = 40  # MediaWiki's own limit on nested templates
_LONGEST_VALUE = 300
_LONGEST_TITLE = 255
_MOST_FACTS = 1000  # of a page: categories and infobox fields, which are stored with each of its passages


@dataclasses.dataclass
class Page:
    """The resolved text of one page, with what was taken out of it."""

    text: str = ""
    categories: list[str] = dataclasses.field(default_factory=list)
    infobox: list[tuple[str, str]] = dataclasses.field(default_factory=list)


def resolve(wikitext: str, title: str, site: Site = ENGLISH) -> Page:
    """Return the page with comments, block tags, templates, links, files and tables resolved."""
    page = Page()
    scan = _Scan(block_tags.drop(wikitext), title, page, site)
    page.text = _BEHAVIOUR.sub("", scan.run())
    return page


class _Scan:
    """One pass over the tokens `{{ }} [[ ]] {| |}` with a stack of open ones. Each is resolved when it closes."""

    def __init__(self, text: str, title: str, page: Page, site: Site):
        self._text = text
        self._title = title
        self._page = page
        self._site = site
        self._frames: list[tuple[str, list[str]]] = [("", [])]
        self._open = {"{{": 0, "[[": 0, "{|": 0}

    def run(self) -> str:
        """Return the resolved text."""
        position = 0
        has_tables = any(line.lstrip(" \t:").startswith(("{|", "|}")) for line in self._text.split("\n"))
        for match in (_TOKEN if has_tables else _TOKEN_OUTSIDE_TABLES).finditer(self._text):
            self._frames[-1][1].append(self._text[position : match.start()])
            position = match.end()
            token = match[0].strip(" \t:")
            if token in self._open:
                self._frames.append((token, []))
                self._open[token] += 1
            elif token == "]]":
                self._close_link()
            elif token == "}}":
                self._close("{{", self._template)
            else:
                self._close("{|", lambda _: BREAK)
        self._frames[-1][1].append(self._text[position:])
        self._give_up(1)
        return "".join(self._frames[0][1])

    def _close(self, kind: str, resolve: Callable[[str], str]) -> None:
        """Resolve the innermost open `kind`; give up what was opened inside it and never closed."""
        if self._open[kind] == 0:
            return
        place = len(self._frames) - 1
        while self._frames[place][0] != kind:
            place -= 1
        self._give_up(place + 1)
        self._open[kind] -= 1
        content = self._frames.pop()[1]
        # Below the depth of any real page, text is dropped instead of being copied from level to level.
        self._frames[-1][1].append(resolve("".join(content)) if place <= _DEEPEST else HOLE)

    def _close_link(self) -> None:
        """Resolve the innermost link. `]]` inside an open template or table closes nothing."""
        if self._frames[-1][0] != "[[":
            return
        if len(self._frames) > _DEEPEST:
            self._open["[["] -= 1
            self._frames.pop()
            self._frames[-1][1].append(HOLE)
            return
        content = "".join(self._frames[-1][1])
        if "\n\n" in content and not self._is_file(content):
            self._give_up(len(self._frames) - 1)
            return
        self._open["[["] -= 1
        self._frames.pop()
        self._frames[-1][1].append(self._link(content))

    def _give_up(self, place: int) -> None:
        """Turn the open tokens from `place` on into text.

        A template, file or table loses its first line, a link its bars. The text of each token comes before that of the
        next, so every character is copied once.
        """
        given_up = self._frames[place:]
        del self._frames[place:]
        for kind, parts in given_up:
            self._open[kind] -= 1
            content = "".join(parts)
            line, newline, rest = content.partition("\n")
            if kind == "[[" and not self._is_file(content):
                target, bar, shown = line.partition("|")
                self._frames[-1][1].append((shown if bar else target) + newline + rest)
            else:
                self._frames[-1][1].append(newline + rest)

    def _link(self, content: str) -> str:
        """Return a marked link, plain text, or '' (for files, categories and other languages)."""
        target, bar, shown = content.partition("|")
        if self._is_file(target):
            return ""
        kind = self._site.kind(target)
        if (category := _CATEGORY.match(target)) or kind == CATEGORY:
            name = target[category.end() if category else target.index(":") + 1 :].strip().replace("_", " ")
            # No real title is longer or contains a line break, and no real page is in more categories.
            if len(name) <= _LONGEST_TITLE and "\n" not in name and len(self._page.categories) < _MOST_FACTS:
                self._page.categories.append(name)
            return ""
        if _LANGUAGE.match(target) and not bar:
            return ""
        if LINK_OPEN in content or HOLE in target or "\n" in target:
            return shown if bar else target
        shown = shown if bar else target.lstrip(" :")
        if bar and not shown.strip():  # the pipe trick
            shown = re.sub(r"(?<!\s)\s*\([^()]*\)$|,.*$", "", target.partition(":")[2] or target)
        if _ELSEWHERE.match(target) or kind or target.lstrip().startswith(("#", "/")):
            return shown
        if target.lstrip()[:1] == ":" and self._site.kind(target.lstrip(" :")):
            return shown
        return f"{LINK_OPEN}{target}{LINK_MIDDLE}{shown}{LINK_CLOSE}"

    def _is_file(self, target: str) -> bool:
        return bool(_FILE.match(target)) or self._site.kind(target) == FILE

    def _template(self, content: str) -> str:
        """Return what a template shows. An infobox shows nothing; its fields are stored in the page."""
        head, *parts = content.split("|")
        name = " ".join(head.replace("_", " ").lower().split())
        args: list[str] = []
        named: dict[str, str] = {}
        for part in parts:
            key, equals, value = part.partition("=")
            if equals and LINK_OPEN not in key and "<" not in key and len(key) < 60:
                named[key.strip().lower()] = value.strip()
            else:
                args.append(part.strip())
        if _INFOBOX.match(name):
            found = [
                (key.replace("_", " "), value)
                for key, value in named.items()
                if value and len(value) <= _LONGEST_VALUE and not _UNTOLD.search(key)
            ]
            self._page.infobox += found[: _MOST_FACTS - len(self._page.infobox)]
            return ""
        for number in range(1, 10):  # {{lang|1=grc|2=...}}
            if str(number) in named:
                args[number - 1 :] = [named.pop(str(number)), *args[number:]]
        return templates.expand(name, args, named, self._title)


def strip_tags(text: str) -> str:
    """Remove HTML tags.

    Raised and lowered digits become Unicode ones. Block tags and double line breaks end a paragraph.
    """
    if "<" not in text:
        return text
    text = _SUP.sub(lambda m: (templates.superscript if m[1].lower() == "sup" else templates.subscript)(m[2]), text)
    text = _BREAKING.sub(BREAK, text)
    text = _LINE_BREAK.sub(" ", text)
    return _INLINE_TAG.sub("", text)


def external_links(text: str) -> str:
    """Replace [http://... text] by its text, and an address without text by a hole."""
    if "//" not in text:
        return text
    text = _EXTERNAL.sub(lambda m: m[1] or HOLE, text)
    return _BARE_URL.sub(HOLE, text) if "://" in text else text


def quotes(text: str) -> str:
    """Remove bold and italics. Of four apostrophes, and of six or more, those beyond the markup stay."""
    if "''" not in text:
        return text
    kept = {2: 0, 3: 0, 4: 1, 5: 0}
    return _QUOTES.sub(lambda m: "'" * kept.get(len(m[0]), len(m[0]) - 5), text)
