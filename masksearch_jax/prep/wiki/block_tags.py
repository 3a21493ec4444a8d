"""Removes comments and tags whose content is no prose, in the order in which MediaWiki reads them, in linear time.

Enters: wikitext. Leaves: wikitext without them. From left to right, what opens first counts: inside a comment nothing
is a tag, and inside <ref> or <nowiki> nothing is a comment (includes/parser/Preprocessor_Hash.php in MediaWiki). HTML
tags come after that. A page is read as a page, not as a template: <noinclude> and <onlyinclude> show their content,
<includeonly> hides it.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable

from masksearch_jax.prep.wiki.templates import BREAK, HOLE, LITERAL_QUOTE

# What replaces the content of each tag.
_EXTENSIONS = {
    "ref": "", "math": HOLE, "chem": HOLE, "ce": HOLE, "score": BREAK, "gallery": BREAK, "source": BREAK,
    "syntaxhighlight": BREAK, "pre": BREAK, "timeline": BREAK, "imagemap": BREAK, "hiero": HOLE, "poem": BREAK,
    "references": "", "nowiki": "", "templatedata": "", "graph": BREAK, "mapframe": "", "maplink": HOLE,
    "inputbox": "", "categorytree": "", "includeonly": "",
}  # fmt: skip
_HTML = {"table": BREAK, "s": "", "del": "", "strike": "", "ol": BREAK, "ul": BREAK, "dl": BREAK}
_SHOWN = {"noinclude", "onlyinclude"}
_NESTING = ("table", "ol", "ul", "dl")  # these may be nested: an inner one does not mean that the outer one is unclosed


def _names(names: Iterable[str]) -> str:
    return "|".join(sorted(names, key=len, reverse=True))


_ATTRIBUTES = r"\b([^<>]*+(?:<!--(?:[^<>-]++|-(?!->))*+-->[^<>]*+)*+)>"
_COMMENT_OR_TAG = re.compile(rf"<!--|<(/?)({_names({*_EXTENSIONS, *_SHOWN})}){_ATTRIBUTES}", re.IGNORECASE)
_HTML_TAG = re.compile(rf"<(/?)({_names(_HTML)}){_ATTRIBUTES}", re.IGNORECASE)


def drop(text: str) -> str:
    """Return the text with comments and block tags replaced by what stands for them.

    A comment that never ends removes the rest of the page, as in MediaWiki. A tag that never closes removes the rest of
    its line.
    """
    if "<" not in text:
        return text
    return _Pass(_Pass(text, _COMMENT_OR_TAG).run(), _HTML_TAG).run()


class _Pass:
    """A pass that pairs each tag with the next closing tag of its name.

    A tag has no closing tag if another tag of its name opens before it. Both are looked up in sorted lists, so a page
    of unclosed tags takes no longer than another.
    """

    def __init__(self, text: str, pattern: re.Pattern[str]):
        self._text = text
        self._tokens = list(pattern.finditer(text))
        # By name: where tags open, with the comment around each, and where tags close. Tags that another tag hides are
        # included.
        self._opens: dict[str, list[int]] = {}
        self._comments: dict[str, list[tuple[int, int]]] = {}
        self._closes: dict[str, list[tuple[int, int]]] = {}
        comment = (-1, -1)
        for token in self._tokens:
            if token[0] == "<!--":
                if token.start() >= comment[1]:
                    comment = (token.start(), self._comment_end(token.start()))
            elif token[1]:
                self._closes.setdefault(token[2].lower(), []).append(token.span())
            elif not token[3].endswith("/"):
                self._opens.setdefault(token[2].lower(), []).append(token.start())
                inside = token.start() < comment[1]
                self._comments.setdefault(token[2].lower(), []).append(comment if inside else (-1, -1))

    def run(self) -> str:
        if not self._tokens:
            return self._text
        parts = []
        position = 0
        for token in self._tokens:
            if token.start() < position:
                continue
            parts.append(self._text[position : token.start()])
            if token[0] == "<!--":
                position = self._comment_end(token.start())
            elif token[1] or token[3].endswith("/") or token[2].lower() in _SHOWN:
                position = token.end()
            else:
                shown, position = self._block(token[2].lower(), token.start(), token.end())
                parts.append(shown)
        parts.append(self._text[position:])
        return "".join(parts)

    def _block(self, name: str, start: int, end: int) -> tuple[str, int]:
        """Return what stands for the tag that opens at start..end, and the position at which to continue."""
        closes, opens, comments = self._closes.get(name, []), self._opens[name], self._comments[name]
        index, following = bisect_right(closes, (start, start)), bisect_right(opens, start)
        close = closes[index][0] if index < len(closes) else len(self._text)
        while following < len(opens) and opens[following] < close and comments[following][0] >= end:
            following = bisect_left(opens, comments[following][1])  # tags in a comment open nothing
        limit = opens[following] if following < len(opens) else len(self._text)
        if index == len(closes) or (limit < close and name not in _NESTING):
            return "", self._line_end(end, limit)
        return _shown(name, self._text[end:close]), closes[index][1]

    def _line_end(self, start: int, limit: int) -> int:
        """Return the position where the line ends, at most `limit`. Line ends inside comments do not count."""
        while True:
            line_end = self._text.find("\n", start, limit)
            line_end = limit if line_end < 0 else line_end
            comment = self._text.find("<!--", start, line_end)
            if comment < 0:
                return line_end
            start = self._comment_end(comment)
            if start >= limit:
                return start

    def _comment_end(self, start: int) -> int:
        end = self._text.find("-->", start + len("<!--"))
        return len(self._text) if end < 0 else end + len("-->")


def _shown(name: str, content: str) -> str:
    """Return what stands for a block. Short formulas and <nowiki> keep their text."""
    if name == "math":
        formula = re.sub(r"<!--.*?(?:-->|\Z)", "", content, flags=re.DOTALL).strip()
        if re.fullmatch(r"[A-Za-z]|[\d.,]{1,12}", formula):
            return formula
    if name == "nowiki":
        return HOLE if re.search(r"[\[\]{}|<>*#=]", content) else content.replace("'", LITERAL_QUOTE)
    return _EXTENSIONS[name] if name in _EXTENSIONS else _HTML[name]
