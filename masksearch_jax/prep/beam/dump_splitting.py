"""Splits a dump into the parts that workers read, in the order of the dump.

A bzip2 stream cannot be entered in its middle. Wikipedia's multistream dumps come with an index of the places where a
new stream starts. With that index a part is a range of bytes: nothing is read here, and each worker decompresses its
own part. Any other dump is decompressed once, here, and its pages are written into files, each a small export of its
own. Where the parts end depends only on the dump and on the requested size, so a preparation that was killed finds its
parts again.
"""

import array
import bz2
import dataclasses
import functools
import gzip
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from masksearch_jax.prep.beam.shard_store import Store, open_read, size
from masksearch_jax.prep.wiki import dump_reader

_HEAD, _TAIL = b"<mediawiki>\n", b"</mediawiki>\n"
_LONGEST_HEAD = 1 << 16  # bytes; the head of a dump names its language and its namespaces
_BLOCK = 1 << 20


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of a dump, readable as an export: a file of the store, or bytes start..end of a multistream dump."""

    name: str
    start: int = 0
    end: int = 0  # 0: a file of the store

    def __str__(self) -> str:
        return f"{self.name}, bytes {self.start} to {self.end}" if self.end else self.name


def by_index(dump: str, index: str, most: int, titles: array.array | None = None) -> list[Part]:
    """Return ranges of about `most` compressed bytes as parts.

    index: the dump's own index, with lines offset:page:title, as .bz2 or plain text. titles: receives a hash of each
    title. Raises ValueError for an index of another dump.
    """
    total = size(dump)
    size(index)
    starts: list[int] = []
    with open_read(index) as file:
        lines = bz2.open(file) if index.endswith(".bz2") else file
        for number, line in enumerate(lines, start=1):
            offset, *rest = line.split(b":", 2)
            if len(rest) != 2 or not offset.isdigit():
                raise ValueError(f"{index}, line {number}: {line[:60]!r} is not of the form offset:page:title")
            if not starts or int(offset) != starts[-1]:
                starts.append(int(offset))
            if titles is not None:
                titles.append(hash(rest[1].strip()))
    if not starts or starts != sorted(starts) or starts[-1] >= total:
        raise ValueError(f"{index}: {len(starts)} places in a file of {total} bytes, {dump}; it is of another dump")
    parts, first = [], starts[0]
    for following in [*starts[1:], total]:
        if following - first >= most or following == total:
            parts.append(Part(dump, first, following))
            first = following
    with open_read(dump) as file:
        for part in parts:
            file.seek(part.start)
            if file.read(3) != b"BZh":
                raise ValueError(
                    f"{dump}: no bzip2 stream starts at byte {part.start}, as {index} says; it is of another dump"
                )
    return parts


def by_indices(dumps: Sequence[str], indices: Sequence[str], most: int, skip_bad: bool = False) -> list[Part]:
    """Return the parts of several dumps, with one index for each dump in the same order, as `by_index` does.

    Raises ValueError as `by_index` does, and for titles that occur twice unless `skip_bad` is set.
    """
    if len(dumps) != len(indices):
        raise ValueError(f"{len(dumps)} dumps and {len(indices)} indices; beam.index has to name one for each dump")
    titles = array.array("q")
    parts = [part for pair in zip(dumps, indices, strict=True) for part in by_index(*pair, most, titles)]
    numbers = np.sort(np.frombuffer(titles, np.int64)) if titles else np.zeros(0, np.int64)
    if (repeats := int((numbers[1:] == numbers[:-1]).sum())) and not skip_bad:
        raise ValueError(
            f"{', '.join(indices)}: {repeats} titles stand a second time; each page has to be in one dump alone. Leave "
            "out the dump that repeats others, or take all of them with --config.skip_bad=True"
        )
    return parts


@functools.lru_cache(maxsize=64)
def head(dump: str) -> bytes:
    """Return the bytes before the first page of a bzip2 dump, which may be in a bucket or local."""
    with open_read(dump) as file:
        try:
            found = bz2.BZ2Decompressor().decompress(file.read(_BLOCK), max_length=_LONGEST_HEAD)
        except OSError as error:
            raise ValueError(f"{dump}: is no bzip2 file from its first byte on ({error})") from error
    return found.partition(b"<page>")[0]


def by_reading(
    dumps: Sequence[Path | str], store: Store, most: int, skip_bad: bool, scratch: Path, show: Callable[[int], None]
) -> tuple[list[Part], int]:
    """Write parts of about `most` bytes of pages into the store; return them and the number of damaged places skipped.

    show: called with the number of bytes of the dump read so far. Raises dump_reader.DumpError. Finished parts are not
    written again.
    """
    if kept := store.read("source/done.json"):
        return [Part(name) for name in kept["parts"]], kept["damaged"]
    stats = dump_reader.DumpStats()
    parts: list[Part] = []
    waiting = scratch / "part.xml.gz"
    written = 0
    file: BinaryIO | gzip.GzipFile | None = None

    def finish(part: BinaryIO | gzip.GzipFile) -> None:
        part.write(_TAIL)
        part.close()
        if not store.has(parts[-1].name):
            store.put(waiting, parts[-1].name)

    seen = dump_reader.Seen()
    for page, own_head in (found for dump in dumps for found in dump_reader.raw_pages(dump, skip_bad, stats, seen)):
        if file is None:
            parts.append(Part(f"source/pages-{len(parts):05d}.xml.gz"))
            # A part that an earlier run finished is read past, not compressed again.
            file = open(os.devnull, "wb") if store.has(parts[-1].name) else gzip.open(waiting, "wb", compresslevel=1)
            file.write(own_head or _HEAD)
        file.write(page + b"\n")
        written += len(page)
        show(stats.file_bytes)
        if written >= most:
            finish(file)
            written, file = 0, None
    if file is not None:
        finish(file)
    store.write("source/done.json", {"parts": [part.name for part in parts], "damaged": stats.bad}, scratch)
    return parts, stats.bad


def fetch(part: Part, store: Store, folder: Path) -> Path:
    """Copy a part into a local export; return its path."""
    if not part.end:
        return store.get(part.name, folder / "part.xml.gz")
    local = folder / "part.xml.bz2"
    with open_read(part.name) as dump, local.open("wb") as target:
        target.write(bz2.compress(head(part.name) or _HEAD))
        dump.seek(part.start)
        left = part.end - part.start
        while left and (block := dump.read(min(left, _BLOCK))):
            target.write(block)
            left -= len(block)
        target.write(bz2.compress(_TAIL))
    return local
