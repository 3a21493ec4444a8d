"""Streams a MediaWiki export: a dump file goes in, articles with their wikitext come out, in constant memory.

Plain, gzip and bzip2 files (also multistream) are told apart by their first bytes. The dump is cut at `<page>` and
`</page>` and each page is parsed on its own, so that memory never holds more than one page and damage costs the pages
it touches, not the rest of the file. Left out: redirects, pages outside the article namespace, all revisions but the
last. Wikitext is not interpreted here (see prep.wikitext).
"""

import bz2
import dataclasses
import gzip
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from xml.etree import ElementTree

_CHUNK = 1 << 20
# No page of Wikipedia comes near this (the software's limit is 2 MiB of wikitext per revision).
_LARGEST_PAGE = 1 << 28
_PAGE_OPEN, _PAGE_CLOSE = b"<page>", b"</page>"
_TITLE = re.compile(rb"<title>(.*?)</title>")
_REDIRECT = re.compile(r"\s*#redirect\b", re.IGNORECASE)
# What a bzip2 stream starts with: the header, then the magic number of its first block.
_STREAM_START = re.compile(rb"BZh[1-9]1AY&SY")
_BAD_READ = (EOFError, OSError, zlib.error)


class DumpError(ValueError):
    """The dump cannot be read on; the message names the file, the page reached and what to do."""


@dataclasses.dataclass(frozen=True)
class Article:
    """One article as the dump holds it: page id, title, and the wikitext of its last revision."""

    id: int
    title: str
    wikitext: str


@dataclasses.dataclass
class DumpStats:
    """Counts of one reading, updated while it runs.

    pages = redirects + non_articles + articles; `bad` counts damaged places that were skipped (pages that could not
    be parsed, breaks of the compressed stream); `wikitext_bytes` is the UTF-8 size of the articles' wikitext;
    `last_title` the last page that was read whole. `file_bytes` is how much of the (compressed) file was read, for
    progress.
    """

    pages: int = 0
    redirects: int = 0
    non_articles: int = 0
    articles: int = 0
    bad: int = 0
    wikitext_bytes: int = 0
    last_title: str = ""
    file_bytes: int = 0


def articles(path: Path | str, skip_bad: bool = False, stats: DumpStats | None = None) -> Iterator[Article]:
    """Returns an iterator over the articles (namespace 0, no redirects) of a dump, in file order.

    `stats`, if given, is filled in as the reading goes on. Raises DumpError: at once when the file is missing, empty
    or no MediaWiki export; while iterating at the first damaged or truncated place, unless `skip_bad`, which counts
    the damage in `stats.bad` and yields what could be read around it.
    """
    path = Path(path)
    if not path.is_file():
        raise DumpError(f"{path}: no such file; name a MediaWiki export (.xml, .xml.bz2 or .xml.gz) in --config.dump")
    stats = DumpStats() if stats is None else stats
    _check_head(path)
    return _articles(path, skip_bad, stats)


def raw_pages(path: Path | str, skip_bad: bool = False, stats: DumpStats | None = None) -> Iterator[bytes]:
    """Yields the bytes of each `<page>...</page>`, of any namespace and unparsed; counts `pages` and `bad`.

    Raises DumpError as `articles` does, but for pages that are no XML.
    """
    path = Path(path)
    stats = DumpStats() if stats is None else stats
    _check_head(path)
    for page in _pages(path, skip_bad, stats):
        yield page
        stats.pages += 1
        title = _TITLE.search(page)
        stats.last_title = title[1].decode(errors="replace") if title else ""


def _articles(path: Path, skip_bad: bool, stats: DumpStats) -> Iterator[Article]:
    """Yields articles from the pages' bytes; counts everything else."""
    for page in _pages(path, skip_bad, stats):
        try:
            element = ElementTree.fromstring(page)
            title, identity = element.findtext("title"), element.findtext("id")
            if not title or identity is None:
                raise ValueError("no <title> or no <id>")
            number, namespace = int(identity), int(element.findtext("ns") or 0)
        except (ElementTree.ParseError, ValueError) as error:
            _damaged(path, stats, skip_bad, f"the next page is damaged ({error})", error)
            continue
        revisions = element.findall("revision")
        wikitext = (revisions[-1].findtext("text") if revisions else None) or ""
        stats.pages += 1
        stats.last_title = title
        if namespace != 0:
            stats.non_articles += 1
        elif element.find("redirect") is not None or _REDIRECT.match(wikitext):
            stats.redirects += 1
        else:
            stats.articles += 1
            stats.wikitext_bytes += len(wikitext.encode("utf-8"))
            yield Article(number, title, wikitext)


def _pages(path: Path, skip_bad: bool, stats: DumpStats) -> Iterator[bytes]:
    """Yields the bytes of each `<page>...</page>`; reports pages that never end and a dump that breaks off."""
    buffer = bytearray()
    started = broken = False
    for chunk in _chunks(path, skip_bad, stats):
        broken = chunk is None
        if chunk is None:  # the stream broke: the page in the buffer has lost its end
            buffer.clear()
            continue
        # Only the new bytes (and a tag cut in two by the border) can hold the end of a page.
        search_from = max(0, len(buffer) - len(_PAGE_CLOSE))
        buffer += chunk
        taken = 0
        while (close := buffer.find(_PAGE_CLOSE, max(search_from, taken))) >= 0:
            end = close + len(_PAGE_CLOSE)
            start, last = buffer.find(_PAGE_OPEN, taken, close), buffer.rfind(_PAGE_OPEN, taken, close)
            if start < 0:
                _damaged(path, stats, skip_bad, "then comes a </page> without its <page>", None)
            elif last != start:
                _damaged(path, stats, skip_bad, "the next page has no </page>", None)
            elif started and buffer[taken:start].strip():
                _damaged(path, stats, skip_bad, f"then comes stray text {bytes(buffer[taken : taken + 60])!r}", None)
            if last >= 0:  # the innermost page is whole, whatever came before it
                yield bytes(buffer[last:end])
            started, taken = True, end
        del buffer[:taken]
        if len(buffer) > _LARGEST_PAGE:
            _damaged(path, stats, skip_bad, f"the next page is larger than {_LARGEST_PAGE >> 20} MiB", None)
            buffer.clear()
    if not broken and not buffer.rstrip().endswith(b"</mediawiki>"):
        _damaged(path, stats, skip_bad, "then the file breaks off: </mediawiki> is missing", None)


def _damaged(path: Path, stats: DumpStats, skip_bad: bool, what: str, cause: Exception | None) -> None:
    """Counts one damaged place, or raises DumpError."""
    if not skip_bad:
        where = f"page {stats.pages} ({stats.last_title!r})" if stats.pages else "the start of the file"
        raise DumpError(
            f"{path}: read up to {where}, {what}; fetch the dump again and compare its checksum, or skip what is "
            "damaged with --config.skip_bad=True"
        ) from cause
    stats.bad += 1


def _check_head(path: Path) -> None:
    """Raises DumpError unless the file starts as a MediaWiki export."""
    try:
        with _open(path) as file:
            head = file.read(4096)
    except _BAD_READ as error:
        raise DumpError(f"{path}: cannot be read from its first byte on ({error}); fetch the dump again") from error
    if b"<mediawiki" not in head:
        raise DumpError(
            f"{path}: starts with {head[:40]!r}, which is no MediaWiki export; --config.dump takes a "
            "pages-articles file (.xml, .xml.bz2 or .xml.gz)"
        )


def _kind(path: Path) -> str:
    """Returns 'bz2', 'gz' or 'xml' by the file's first bytes."""
    with path.open("rb") as file:
        magic = file.read(3)
    return "bz2" if magic == b"BZh" else "gz" if magic[:2] == b"\x1f\x8b" else "xml"


def _open(path: Path) -> BinaryIO:
    """Opens the decompressed stream."""
    opener = {"bz2": bz2.open, "gz": gzip.open, "xml": open}[_kind(path)]
    return opener(path, "rb")


def _chunks(path: Path, skip_bad: bool, stats: DumpStats) -> Iterator[bytes | None]:
    """Yields decompressed pieces, and None where a damaged stream was given up."""
    if _kind(path) == "bz2":
        yield from _bz2_chunks(path, skip_bad, stats)
        return
    with _open(path) as file:
        compressed = getattr(file, "fileobj", None) or file  # gzip reads from a file of its own
        while True:
            try:
                chunk = file.read(_CHUNK)
                stats.file_bytes = compressed.tell()
            except _BAD_READ as error:
                _damaged(path, stats, skip_bad, f"then the compressed stream breaks ({error})", error)
                yield None
                return
            if not chunk:
                return
            yield chunk


def _bz2_chunks(path: Path, skip_bad: bool, stats: DumpStats) -> Iterator[bytes | None]:
    """Decompresses one bzip2 stream after the other (Wikipedia's multistream dumps hold 100 pages in each).

    bz2.open would do for a sound file, but after damage it cannot go on with the next stream.
    """
    decompressor, stream_start, raw = None, 0, b""
    with path.open("rb") as file:
        while True:
            if decompressor is None or decompressor.needs_input:
                raw = raw or file.read(_CHUNK)
                stats.file_bytes = file.tell()
                if not raw:
                    break
            decompressor = decompressor or bz2.BZ2Decompressor()
            try:
                # max_length bounds what one call returns, however well the input is compressed.
                chunk = decompressor.decompress(raw, max_length=_CHUNK)
            except OSError as error:
                _damaged(path, stats, skip_bad, f"then the compressed stream is damaged ({error})", error)
                yield None
                stream_start = _seek_stream(file, stream_start + 1)
                decompressor, raw = None, b""
                continue
            raw = b""
            if chunk:
                yield chunk
            if decompressor.eof:
                raw = decompressor.unused_data
                stream_start = file.tell() - len(raw)
                decompressor = None
    if decompressor is not None:
        _damaged(path, stats, skip_bad, "then the compressed stream breaks off", None)
        yield None


def _seek_stream(file: BinaryIO, start: int) -> int:
    """Moves to the first bzip2 stream at or after `start` (to the end if there is none); returns the position."""
    overlap = 9
    file.seek(start)
    position, tail = start, b""
    while block := file.read(_CHUNK):
        window = tail + block
        if found := _STREAM_START.search(window):
            return file.seek(position - len(tail) + found.start())
        position += len(block)
        tail = window[-overlap:]
    return position
