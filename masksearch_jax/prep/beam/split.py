"""Cuts a dump into the parts that workers read, in the order of the dump.

A bzip2 stream cannot be entered in its middle. Wikipedia's multistream dumps come with an index of the places where a
new stream starts: with it a part is a range of bytes, nothing is read here, and each worker decompresses its own. Any
other dump is decompressed once, here, and its pages are written into files, each a small export of its own. Where the
parts end depends on the dump and the size asked for alone, so that a killed preparation finds its parts again.
"""

import bz2
import dataclasses
import gzip
import os
from collections.abc import Callable
from pathlib import Path

from masksearch_jax.prep import wikipedia
from masksearch_jax.prep.beam.store import Store, open_read, size

_HEAD, _TAIL = b"<mediawiki>\n", b"</mediawiki>\n"
_BLOCK = 1 << 20


@dataclasses.dataclass(frozen=True)
class Part:
    """A file of the store, or the bytes start..end of a multistream dump; either opens as an export."""

    name: str
    start: int = 0
    end: int = 0  # 0: a file of the store

    def __str__(self) -> str:
        return f"{self.name}, bytes {self.start} to {self.end}" if self.end else self.name


def by_index(dump: str, index: str, most: int) -> list[Part]:
    """Returns ranges of about `most` compressed bytes. index: the dump's own, lines of offset:page:title, as .bz2 or
    plain. Raises ValueError for an index of another dump."""
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


def by_reading(
    dump: Path, store: Store, most: int, skip_bad: bool, scratch: Path, show: Callable[[int], None]
) -> tuple[list[Part], int]:
    """Writes parts of about `most` bytes of pages into the store; returns them and the damaged places skipped.

    show: told how many bytes of the dump are read. Raises wikipedia.DumpError. Finished parts are not written again.
    """
    if kept := store.read("source/done.json"):
        return [Part(name) for name in kept["parts"]], kept["damaged"]
    stats = wikipedia.DumpStats()
    parts: list[Part] = []
    waiting = scratch / "part.xml.gz"
    written, file = 0, None

    def finish() -> None:
        file.write(_TAIL)
        file.close()
        if not store.has(parts[-1].name):
            store.put(waiting, parts[-1].name)

    for page in wikipedia.raw_pages(dump, skip_bad, stats):
        if file is None:
            parts.append(Part(f"source/pages-{len(parts):05d}.xml.gz"))
            # What an earlier run finished is read past, not compressed again.
            file = open(os.devnull, "wb") if store.has(parts[-1].name) else gzip.open(waiting, "wb", compresslevel=1)
            file.write(_HEAD)
        file.write(page + b"\n")
        written += len(page)
        show(stats.file_bytes)
        if written >= most:
            finish()
            written, file = 0, None
    if file is not None:
        finish()
    store.write("source/done.json", {"parts": [part.name for part in parts], "damaged": stats.bad}, scratch)
    return parts, stats.bad


def fetch(part: Part, store: Store, folder: Path) -> Path:
    """Returns a part as a local export."""
    if not part.end:
        return store.get(part.name, folder / "part.xml.gz")
    local = folder / "part.xml.bz2"
    with open_read(part.name) as dump, local.open("wb") as target:
        target.write(bz2.compress(_HEAD))
        dump.seek(part.start)
        left = part.end - part.start
        while left and (block := dump.read(min(left, _BLOCK))):
            target.write(block)
            left -= len(block)
        target.write(bz2.compress(_TAIL))
    return local
