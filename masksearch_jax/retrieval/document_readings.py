"""The words of a document from an unknown corpus, however its server formats title, text and markup.

Enters: title and text as a server sent them, and passages of ours. Leaves: whether the document repeats a passage, how
much of it, and whether the document could belong to an article. Case, accents, punctuation, white space, HTML and
markdown make no difference, and neither does the place where a server splits title and text. Left out: what to do about
it (exclusion.py).
"""

import dataclasses
import html
import re
import urllib.parse
from collections.abc import Sequence

import numpy as np

from masksearch_jax.retrieval.bounded_cache import text_bytes
from masksearch_jax.text import shingles

_LONG_NUMBER = re.compile("&#[0-9]{8,};?")  # no character has one, and Python refuses to parse a very long one
_TAG = re.compile("</?[A-Za-z][^<>]{0,200}>|<!--")
_LINK = re.compile(r"\]\([^()\s]{0,500}\)|\[\[[^\[\]|]{0,200}\|")  # the address in [shown](address), [[target|shown]]
_FOOTNOTE = re.compile(r"\[(?:\d{1,3}|[a-z]|citation needed)\]")
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")
_HALVES = re.compile("[\ud800-\udfff]")
# Labels that servers and corpora put before a title.
_LABELS = frozenset({"doc", "document", "title", "passage", "article", "wikipedia", "page"})
_MOST_LABELS = 4
_HEAD_CHARS = 800  # characters that could hold a title; MediaWiki's titles have at most 255 bytes
_POINTER_BYTES = 8
_UNALIGNED = 20  # letters that a text needs to be found in another one without regard to word boundaries


def plain(text: str) -> str:
    """Return the text without markup, entities, footnote marks, invisible characters and lone surrogates."""
    if "&" in text:
        for _ in range(2):  # some corpora escape twice
            text = html.unescape(_LONG_NUMBER.sub(" ", text))
    if "<" in text:
        text = _TAG.sub(" ", text)
    if "[" in text or "](" in text:
        text = _FOOTNOTE.sub(" ", _LINK.sub(" ", text))
    if not text.isascii():
        text = _HALVES.sub(" ", _INVISIBLE.sub("", text))
    return text


def _words(text: str) -> list[str]:
    return shingles.words(plain(text))


def _unglued(text: str) -> str:
    """Insert a space where a word seems to begin within another: 'Karn VelithThe river', 'Apollo 11In 1969'."""
    out = []
    for i, character in enumerate(text):
        before, after = text[i - 1] if i else " ", text[i + 1] if i + 1 < len(text) else " "
        begins = character.isupper() and (not before.isupper() or after.islower())
        if before.isalnum() and (begins or before.isdigit() != character.isdigit()):
            out.append(" ")
        out.append(character)
    return "".join(out)


def _head(text: str) -> list[str]:
    return shingles.words(_unglued(plain(text[:_HEAD_CHARS])))


def _hashes(words: Sequence[str]) -> np.ndarray:
    return np.array([shingles.word_hash(word) for word in words], np.uint64)


def _bytes_of_words(words: Sequence[str]) -> int:
    return text_bytes(*words) + _POINTER_BYTES * len(words)


def _begins(words: Sequence[str], first: Sequence[str]) -> bool:
    """Return whether `words` begin with `first`, directly or after labels such as 'Document 3, title:'."""
    for skipped in range(min(_MOST_LABELS, len(words)) + 1):
        if list(words[skipped : skipped + len(first)]) == list(first):
            return True
        if skipped == len(words) or not (words[skipped] in _LABELS or words[skipped].isdigit()):
            return False
    return False


@dataclasses.dataclass(frozen=True)
class Text:
    """The words of a text as two strings: with single spaces between and around them, and without any spaces."""

    spaced: str
    tight: str

    @classmethod
    def of(cls, words: Sequence[str]) -> "Text":
        return cls(f" {' '.join(words)} ", "".join(words))

    @property
    def nbytes(self) -> int:
        """The bytes in memory."""
        return text_bytes(self.spaced, self.tight)

    def is_in(self, other: "Text") -> bool:
        """Return whether the other text contains this one. An empty text is contained in none."""
        if not self.tight:
            return False
        return self.spaced in other.spaced or (len(self.tight) >= _UNALIGNED and self.tight in other.tight)


@dataclasses.dataclass(frozen=True)
class Source:
    """What a task must not find.

    title: the words of the title, and those of its `_unglued` form, to compare with `Document.heads`. passages: the
    task's own passage comes first. shingles: uint64 [m], the distinct shingles of all passages, ascending.
    """

    title: tuple[list[str], list[str]]
    passages: list[Text]
    shingles: np.ndarray

    @classmethod
    def read(cls, title: str, texts: Sequence[str]) -> "Source":
        words = [_words(text) for text in texts]
        found = [shingles.shingles_in_order(_hashes(one)) for one in words]
        return cls((_words(title), _head(title)), [Text.of(one) for one in words], np.unique(np.concatenate(found)))

    @property
    def nbytes(self) -> int:
        """The bytes in memory, about."""
        return sum(one.nbytes for one in self.passages) + self.shingles.nbytes + sum(map(_bytes_of_words, self.title))


@dataclasses.dataclass(frozen=True)
class Document:
    """A document in two readings: its text alone, and title and text joined.

    titled: whether the server gave the title as such and the title has words. titles: lists of words that could be its
    title. heads: the first words of each reading that could begin with a title. own_title: how many words the title has
    if the text repeats it at its beginning, else 0. texts: both readings, and the joined one with its markup. shingles:
    uint64 [m], the shingles of the joined reading, in order. title_words, text_words: numbers of words.
    """

    titled: bool
    titles: list[list[str]]
    heads: list[list[str]]
    own_title: int
    texts: tuple[Text, Text, Text]
    shingles: np.ndarray
    title_words: int
    text_words: int

    @classmethod
    def read(cls, title: str, text: str, titled: bool) -> "Document":
        """Return the readings of a document. titled: False where `title` is only a guess at its title."""
        title_words, text_words = _words(title), _words(text)
        whole = title_words + text_words
        titled = titled and bool(title_words)
        # A title may be the address of its page, or the title of a browser window.
        address = urllib.parse.unquote(title.rstrip("/").rpartition("/")[2], errors="replace")
        titles = [title_words, _words(address), _words(address.removesuffix(" - Wikipedia"))]
        heads = [_head(text)] if titled else [_head(text), _head(f"{title} {text}")]
        own = len(title_words) if titled and text_words[: len(title_words)] == title_words else 0
        shingled = shingles.shingles_in_order(_hashes(whole))
        raw = shingles.words(_HALVES.sub(" ", f"{title} {text}"))  # what looks like markup may contain the source
        texts = Text.of(text_words), Text.of(whole), Text.of(raw)
        return cls(titled, titles, heads, own, texts, shingled, len(title_words), len(text_words))

    @property
    def nbytes(self) -> int:
        """The bytes in memory, about; with the text itself, which the key of a cache holds."""
        words = sum(map(_bytes_of_words, (*self.titles, *self.heads)))
        return sum(one.nbytes for one in (*self.texts, self.texts[0])) + self.shingles.nbytes + words

    def is_of_article(self, title: tuple[list[str], list[str]]) -> bool:
        """Return whether the document could belong to the article with this title (`Source.title`)."""
        words, glued = title
        if any(one in title for one in self.titles):
            return True
        if not words or self.own_title > len(words):
            return False  # the text begins with a longer title of its own: 'Oslo Airport is' is no sign of 'Oslo'
        return any(_begins(head, glued) for head in self.heads)

    def repeats(self, passage: Text, same_article: bool) -> bool:
        """Return whether the document contains the passage, or is a part of it.

        A few words under the title of another article do not count as a part: 'Tolm: a town'.
        """
        text, whole, raw = self.texts
        if whole.is_in(passage) or passage.is_in(whole) or passage.is_in(raw):
            return True
        if self.titled and not same_article and self.text_words < shingles.SHINGLE_WORDS:
            return False
        return text.is_in(passage) or passage.is_in(text)

    def share(self, source: np.ndarray) -> float:
        """Return the share of the shorter side's shingles that the other has too, in the reading that shares more."""
        whole = np.unique(self.shingles)
        text = np.unique(self.shingles[self.title_words :])
        return max(shingles.share(source, whole), shingles.share(source, text))

    def longest_run(self, source: np.ndarray) -> int:
        """Return the length of the longest run of shingles that the source has too: n shingles are n + 4 words."""
        ends = np.flatnonzero(~np.isin(self.shingles, source))
        return int(np.diff(np.concatenate(([-1], ends, [len(self.shingles)]))).max()) - 1
