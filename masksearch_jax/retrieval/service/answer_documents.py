"""Read the documents of a search server's answer: cleaned title and text, whatever their shape.

Shapes: `{"document": {..}, "score": 0.8}`, or the inner object alone. The inner object holds `contents` as
`"Title"\\ntext` (Search-R1's corpora), as `Title\\ntext` or as text alone; or `title` beside `contents` or `text`.
`document` may also be the text itself. Left out: the answer around them (wire.py).
"""

import dataclasses
import math
import re
import unicodedata

from masksearch_jax.runtime.types import Json, JsonObject

_MOST_CHARS = 1 << 16  # of a text; an observation shows a few thousand at most
_TITLE_BYTES = 255  # the longest title that MediaWiki takes
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_MOST_MARKS = 32  # combining marks in a row: sorting them takes quadratic time, and no script stacks so many
_MOST_ID = 1 << 63


@dataclasses.dataclass(frozen=True)
class Document:
    """A passage as a server sent it.

    passage_id, article_id: our numbers, -1 where the server is not ours. titled: False where `title` is only a guess,
    or empty because the server gave none.
    """

    title: str
    text: str
    score: float
    passage_id: int = -1
    article_id: int = -1
    titled: bool = dataclasses.field(default=True, compare=False)


def read_document(entry: Json, ours: bool) -> Document | None:
    """Return the document of one entry of a result, None if it has no text or its score is no number.

    ours: read the ids as numbers of our passages; an entry without them is then None.
    """
    if not isinstance(entry, dict):
        return None
    document = entry.get("document", entry)
    if isinstance(document, str):
        document = {"contents": document}
    score = _score(entry.get("score", 0.0))
    found = _title_and_text(document) if isinstance(document, dict) else None
    if score is None or found is None:
        return None
    title, text, titled = found
    id, article_id = (_id(document.get("id")), _id(document.get("article_id"))) if ours else (-1, -1)
    if id is None or article_id is None:
        return None
    return Document(clean(title), clean(text), score, id, article_id, titled=titled)


def clean(text: str) -> str:
    """Return the text in a form that any tokenizer takes.

    Lone surrogates become U+FFFD. Control characters other than tabs and line ends become spaces. Long runs of
    combining marks and very long texts are cut.
    """
    text = _CONTROL.sub(" ", text[:_MOST_CHARS])
    if text.isascii():
        return text
    return _with_few_marks(whole_characters(text))


def whole_characters(text: str) -> str:
    """Return the text with U+FFFD for each lone surrogate, which JSON can spell and UTF-8 cannot."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _with_few_marks(text: str) -> str:
    out, marks = [], 0
    for character in text:
        marks = marks + 1 if unicodedata.combining(character) else 0
        if marks <= _MOST_MARKS:
            out.append(character)
    return "".join(out)


def _title_and_text(document: JsonObject) -> tuple[str, str, bool] | None:
    """Return (title, text, whether the title is given as such); None if there is no text."""
    title = document.get("title")
    title = title if isinstance(title, str) and title.strip() else ""
    text = document.get("contents")
    if not isinstance(text, str):
        text = document.get("text")
        return (title, text, bool(title)) if isinstance(text, str) else None
    first, end, rest = text.partition("\n")
    line = first.strip()
    quoted = len(line) > 1 and line[0] == line[-1] == '"'
    if title:
        own = end and (line[1:-1] if quoted else line) == title.strip()
        return title, rest if own else text, True
    if end and quoted:
        return line[1:-1], rest, bool(line[1:-1].strip())
    if end and len(first.encode(errors="replace")) <= _TITLE_BYTES:
        return first.rstrip("\r"), rest, False
    return "", text, False


def _score(value: Json) -> float | None:
    try:
        score = float(value)
    except (ValueError, TypeError, OverflowError):
        return None
    return score if math.isfinite(score) else None


def _id(value: Json) -> int | None:
    """Return one of our numbers, which is sent as a number or as its digits; None if it is no such number."""
    try:
        number = int(value) if isinstance(value, (str, int)) else -1
    except ValueError:
        return None
    return number if 0 <= number < _MOST_ID else None
