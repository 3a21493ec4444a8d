"""Streams a MediaWiki export: a dump file goes in, articles with their wikitext come out, in constant memory.

Plain, gzip and bzip2 files (also multistream, and with padding at the end) are told apart by their first bytes. The
dump is cut at `<page>` and `</page>` and each page is parsed on its own. Memory therefore never holds more than one
page, and damage costs the pages it touches, not the rest of the file. One export may follow another in the file, and
comments and log items may stand between pages. Left out: redirects, pages outside the article namespace, all revisions
but the last. Wikitext is not interpreted here (see wikitext.py).
"""

import bz2
import dataclasses
import gzip
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast
from xml.etree import ElementTree

from masksearch_jax.prep.wiki import site_info as sites

_CHUNK = 1 << 20
# No page of Wikipedia comes near this (the software's limit is 2 MiB of wikitext per revision).
_LARGEST_PAGE = 1 << 28
_PAGE_OPEN, _PAGE_CLOSE = b"<page>", b"</page>"
_TITLE = re.compile(rb"<title>(.*?)</title>")
_REDIRECT = re.compile(r"\s*#redirect\b", re.IGNORECASE)
_REDIRECT_ABROAD = re.compile(r"\s*#[^\W\d_]+\s*:?\s*\[\[")  # '#WEITERLEITUNG [[..]]'
# What may stand between pages: the end of an export and the head of the next one, comments, log items.
_BETWEEN = re.compile(
    rb"(?:\s++|\xef\xbb\xbf|<!--.*?-->|</mediawiki\s*>|<\?xml.*?\?>|<!DOCTYPE[^<>]*>|<mediawiki\b[^<>]*>"
    rb"|<siteinfo>.*?</siteinfo>|<siteinfo\s*/>|<logitem>.*?</logitem>)*+",
    re.DOTALL,
)
_COMMENT_OPEN, _COMMENT_CLOSE = b"<!--", b"-->"
_EXPORT_OPEN, _EXPORT_CLOSE = b"<mediawiki", b"</mediawiki"
_PADDING = b"\0 \t\r\n"
_LONGEST_TITLE = 255  # bytes, MediaWiki's own limit
_LARGEST_ID = 1 << 63
# What a bzip2 stream starts with: the header, then the magic number of its first block.
_STREAM_START = re.compile(rb"BZh[1-9]1AY&SY")
_BAD_READ = (EOFError, OSError, zlib.error)


class DumpError(ValueError):
    """The dump cannot be read any further; the message names the file, the page reached and what to do."""


@dataclasses.dataclass(frozen=True)
class Article:
    """One article of a dump: page id, title, and the wikitext of its last revision."""

    id: int
    title: str
    wikitext: str
    site: sites.Site = sites.ENGLISH


@dataclasses.dataclass
class DumpStats:
    """Counts of one reading, updated while it runs.

    pages = redirects + non_articles + articles. `bad` counts the damaged places that were skipped (pages that could not
    be parsed, breaks of the compressed stream). `wikitext_bytes` is the UTF-8 size of the articles' wikitext.
    `last_title` is the title of the last page that was read whole. `file_bytes` is how much of the (compressed) file
    was read, for progress. `superseded` counts the articles that were left out because a search-only article has their
    title.
    """

    pages: int = 0
    redirects: int = 0
    non_articles: int = 0
    articles: int = 0
    bad: int = 0
    wikitext_bytes: int = 0
    last_title: str = ""
    file_bytes: int = 0
    superseded: int = 0


class Seen:
    """What exports that are read as one dump must agree on: they are of one wiki, and no title or page id occurs twice.

    Memory: a number for each title and for each id.
    """

    def __init__(self):
        self._titles: set[int] = set()
        self._ids: set[int] = set()
        self._site: tuple[sites.Site, Path] | None = None

    def site(self, path: Path, head: bytes) -> sites.Site:
        """Return the site that an export's head names; raise DumpError if it differs from the one before."""
        found = sites.read(head)
        before, where = self._site = self._site or (found, path)
        if found.language != before.language or (found.name and before.name and found.name != before.name):
            raise DumpError(
                f"{path}: holds an export of {found.name or 'a wiki'} in {found.language!r}, and {where} one of "
                f"{before.name or 'a wiki'} in {before.language!r}; titles and page ids are those of one wiki: prepare "
                "each with a --workdir of its own"
            )
        return found

    def repeats(self, title: str, id: int | None = None) -> str:
        """Record a page; return '', or a message that names what an earlier page had as well."""
        title_number = hash(title)
        if title_number in self._titles:
            return f"the title {title!r} stands a second time"
        if id is not None and id in self._ids:
            return f"the page id {id} stands a second time, now with the title {title!r}"
        self._titles.add(title_number)
        if id is not None:
            self._ids.add(id)
        return ""


def articles(
    path: Path | str, skip_bad: bool = False, stats: DumpStats | None = None, seen: Seen | None = None
) -> Iterator[Article]:
    """Return an iterator over the articles (namespace 0, no redirects) of a dump, in file order.

    `stats`, if given, is updated during the reading; `seen` is shared by files that are read as one dump. Raises
    DumpError at once if the file is missing, empty or no MediaWiki export. While iterating, raises DumpError for an
    export of another wiki, and at the first place that is damaged or truncated, or article that occurs twice. With
    `skip_bad`, such places are counted in `stats.bad` instead, and what can be read around them is yielded (of two
    articles the first).
    """
    path = Path(path)
    if not path.is_file():
        raise DumpError(f"{path}: no such file; name a MediaWiki export (.xml, .xml.bz2 or .xml.gz) in --config.dump")
    stats = DumpStats() if stats is None else stats
    _check_head(path)
    return _articles(path, skip_bad, stats, Seen() if seen is None else seen)


def read_head(path: Path | str) -> bytes:
    """Return the bytes before the first page of an export, of which at most 64 KiB are read."""
    _check_head(Path(path))
    with _open(Path(path)) as file:
        try:
            start = file.read(1 << 16)
        except _BAD_READ:  # damage further on is reported when the dump is read
            return b""
    return start.partition(_PAGE_OPEN)[0]


def raw_pages(
    path: Path | str, skip_bad: bool = False, stats: DumpStats | None = None, seen: Seen | None = None
) -> Iterator[tuple[bytes, bytes]]:
    """Yield the bytes of each `<page>...</page>`, of any namespace and unparsed, with the head of its export.

    Counts `pages` and `bad`. Raises DumpError as `articles` does, except for pages that are no valid XML. No title may
    occur twice, in any namespace.
    """
    path = Path(path)
    stats, seen = DumpStats() if stats is None else stats, Seen() if seen is None else seen
    _check_head(path)
    head = None
    for page, latest in _pages(path, skip_bad, stats):
        if latest is not head:
            head = latest
            seen.site(path, head)
        found = _TITLE.search(page)
        title = found[1].decode(errors="replace") if found else ""
        if title and (repeated := seen.repeats(title)):
            _damaged(path, stats, skip_bad, repeated, None)
            continue
        yield page, head
        stats.pages += 1
        stats.last_title = title


def _articles(path: Path, skip_bad: bool, stats: DumpStats, seen: Seen) -> Iterator[Article]:
    """Yield articles from the bytes of the pages; count everything else."""
    head, site = None, sites.ENGLISH
    for page, latest in _pages(path, skip_bad, stats):
        if latest is not head:
            head, site = latest, seen.site(path, latest)
        try:
            element = ElementTree.fromstring(page)
            title, identity = element.findtext("title"), element.findtext("id")
            if not title or identity is None:
                raise ValueError("no <title> or no <id>")
            if len(title.encode()) > _LONGEST_TITLE:
                raise ValueError(f"a title of {len(title.encode())} bytes")
            number, namespace = int(identity), int(element.findtext("ns") or 0)
            if not 0 <= number < _LARGEST_ID:
                raise ValueError(f"page id {number}")
        except (ElementTree.ParseError, ValueError) as error:
            _damaged(path, stats, skip_bad, f"the next page is damaged ({error})", error)
            continue
        revisions = element.findall("revision")
        wikitext = (revisions[-1].findtext("text") if revisions else None) or ""
        is_redirect = element.find("redirect") is not None or bool(_REDIRECT.match(wikitext))
        is_redirect = is_redirect or (not site.is_english and bool(_REDIRECT_ABROAD.match(wikitext)))
        if namespace == 0 and not is_redirect and (repeated := seen.repeats(title, number)):
            _damaged(path, stats, skip_bad, repeated, None)
            continue
        stats.pages += 1
        stats.last_title = title
        if namespace != 0:
            stats.non_articles += 1
        elif is_redirect:
            stats.redirects += 1
        else:
            stats.articles += 1
            stats.wikitext_bytes += len(wikitext.encode("utf-8"))
            yield Article(number, title, wikitext, site)


def _pages(path: Path, skip_bad: bool, stats: DumpStats) -> Iterator[tuple[bytes, bytes]]:
    """Yield the bytes of each `<page>...</page>` with the head of its export.

    The head is the same object for all pages of one export. Reports pages that never end and a dump that breaks off.
    """
    buffer = bytearray()
    started = broken = False
    head, ended = b"", False  # the head of the export that is being read, and whether that export has ended
    comment = False  # whether the buffer begins inside a comment
    for chunk in _chunks(path, skip_bad, stats):
        broken = chunk is None
        if chunk is None:  # the stream broke: the page in the buffer has lost its end
            buffer.clear()
            comment = False
            continue
        # Only the new bytes, and a tag cut in two by the border, can contain the end of a page or of a comment.
        search_from = max(0, len(buffer) - len(_PAGE_CLOSE))
        buffer += chunk
        taken = 0
        while True:
            if comment:
                close = buffer.find(_COMMENT_CLOSE, max(search_from, taken))
                if close < 0:
                    break
                comment, taken = False, close + len(_COMMENT_CLOSE)
            close = buffer.find(_PAGE_CLOSE, max(search_from, taken))
            if close < 0:
                break
            end = close + len(_PAGE_CLOSE)
            passed = _BETWEEN.match(buffer, taken, end)
            between = passed.end() if passed else taken
            start, last = buffer.find(_PAGE_OPEN, between, close), buffer.rfind(_PAGE_OPEN, between, close)
            inside = buffer.startswith(_COMMENT_OPEN, between)  # a comment that holds a page
            gap = _without_comments(bytes(buffer[taken : between if started or inside else max(start, between)]))
            opening, closing = gap.find(_EXPORT_OPEN), gap.rfind(_EXPORT_CLOSE)
            if started and opening >= 0 and not (ended or _EXPORT_CLOSE in gap[:opening]):
                _damaged(path, stats, skip_bad, "then the next export begins: </mediawiki> is missing before it", None)
            if opening >= 0:
                head = gap[gap.rfind(_EXPORT_OPEN) :]
            if max(opening, closing) >= 0:
                ended = closing > gap.rfind(_EXPORT_OPEN)
            if inside:
                comment, taken = True, between + len(_COMMENT_OPEN)
                search_from = taken
                continue
            if start < 0:
                _damaged(path, stats, skip_bad, "then comes a </page> without its <page>", None)
            elif last != start:
                _damaged(path, stats, skip_bad, "the next page has no </page>", None)
            elif started and buffer[between:start].strip():
                shown = bytes(buffer[between : between + 60])
                _damaged(path, stats, skip_bad, f"then comes stray text {shown!r}", None)
            if last >= 0:  # the innermost page is complete, whatever came before it
                yield bytes(buffer[last:end]), head
            started, ended, taken = True, False, end
        del buffer[:taken]
        if len(buffer) > _LARGEST_PAGE:
            _damaged(path, stats, skip_bad, f"the next page is larger than {_LARGEST_PAGE >> 20} MiB", None)
            buffer.clear()
            comment = False
    rest = _without_comments(bytes(buffer)).rstrip(_PADDING)
    if not broken and (comment or not (rest.endswith(b"</mediawiki>") or (ended and not rest))):
        _damaged(path, stats, skip_bad, "then the file breaks off: </mediawiki> is missing", None)


def _without_comments(data: bytes) -> bytes:
    """Return the bytes without comments. A comment that does not end stays."""
    parts, position = [], 0
    while (start := data.find(_COMMENT_OPEN, position)) >= 0:
        end = data.find(_COMMENT_CLOSE, start + len(_COMMENT_OPEN))
        if end < 0:
            break
        parts.append(data[position:start])
        position = end + len(_COMMENT_CLOSE)
    return b"".join([*parts, data[position:]])


def _damaged(path: Path, stats: DumpStats, skip_bad: bool, what: str, cause: Exception | None) -> None:
    """Raise DumpError for a damaged place, or count it with `skip_bad`."""
    if not skip_bad:
        where = f"page {stats.pages} ({stats.last_title!r})" if stats.pages else "the start of the file"
        raise DumpError(
            f"{path}: read up to {where}, {what}; fetch the dump again and compare its checksum, or skip what is "
            "damaged with --config.skip_bad=True"
        ) from cause
    stats.bad += 1


def _check_head(path: Path) -> None:
    """Raise DumpError unless the file starts like a MediaWiki export."""
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
    """Return 'bz2', 'gz' or 'xml', by the file's first bytes."""
    with path.open("rb") as file:
        magic = file.read(3)
    return "bz2" if magic == b"BZh" else "gz" if magic[:2] == b"\x1f\x8b" else "xml"


def _open(path: Path) -> BinaryIO:
    """Open the decompressed stream."""
    kind = _kind(path)
    if kind == "xml":
        return open(path, "rb")
    return cast(BinaryIO, bz2.open(path, "rb") if kind == "bz2" else gzip.open(path, "rb"))


def _chunks(path: Path, skip_bad: bool, stats: DumpStats) -> Iterator[bytes | None]:
    """Yield decompressed chunks, and None where a damaged stream was given up."""
    if _kind(path) == "bz2":
        yield from _bz2_chunks(path, skip_bad, stats)
        return
    before = stats.file_bytes  # of the files read before
    with _open(path) as file:
        compressed = getattr(file, "fileobj", None) or file  # gzip reads from a file of its own
        while True:
            try:
                chunk = file.read(_CHUNK)
                stats.file_bytes = before + compressed.tell()
            except _BAD_READ as error:
                _damaged(path, stats, skip_bad, f"then the compressed stream breaks ({error})", error)
                yield None
                return
            if not chunk:
                return
            yield chunk


def _bz2_chunks(path: Path, skip_bad: bool, stats: DumpStats) -> Iterator[bytes | None]:
    """Decompress one bzip2 stream after the other (Wikipedia's multistream dumps hold 100 pages in each).

    bz2.open would be enough for an undamaged file, but after damage it cannot continue with the next stream.
    """
    decompressor, stream_start, raw = None, 0, b""
    before = stats.file_bytes  # of the files read before
    with path.open("rb") as file:
        while True:
            if decompressor is None or decompressor.needs_input:
                raw = raw or file.read(_CHUNK)
                stats.file_bytes = before + file.tell()
                if not raw:
                    break
                if decompressor is None:  # a stream may be padded up to the next block of a tape or an archive
                    padded, raw = len(raw), raw.lstrip(_PADDING)
                    stream_start += padded - len(raw)
                    if not raw:
                        continue
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
    """Move to the first bzip2 stream at or after `start`, or to the end if there is none; return the position."""
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
