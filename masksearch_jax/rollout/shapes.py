"""Ragged work in fixed shapes: which rung of a ladder, which rows together, how padded. Pure numpy.

A program compiles once for each shape, so shapes come from short ladders and everything else is padding.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np


def clipped(ladder: Sequence[int], largest: int) -> tuple[int, ...]:
    """Returns the ladder without what is of no use beyond `largest`."""
    return tuple(sorted({min(size, largest) for size in ladder}))


def to_the_end(ladder: Sequence[int], largest: int) -> tuple[int, ...]:
    """Returns the ladder with `largest` as its last rung, so that whatever may come fits some rung of it."""
    return clipped((*ladder, largest), largest)


def rung(ladder: Sequence[int], size: int) -> int:
    """Returns the smallest rung that holds `size`, or the largest one."""
    return next((entry for entry in ladder if entry >= size), ladder[-1])


def row_chunks(count: int, ladder: Sequence[int]) -> list[tuple[slice, int]]:
    """Cuts `count` rows into parts and the program width of each: widest first, the rest in the narrowest that fits."""
    chunks, start = [], 0
    while start < count:
        rows = rung(ladder, count - start)
        end = min(count, start + rows)
        chunks.append((slice(start, end), rows))
        start = end
    return chunks


def shard_chunks(slots: Sequence[int], per_shard: int, shards: int, ladder: Sequence[int]) -> list[np.ndarray]:
    """Cuts work on `slots` into programs: int32 [R] each, R from the ladder of multiples of `shards`.

    The r-th part of a program's entries are slots of shard r (slot // per_shard), which takes them in the order given;
    an entry that is left over is shards * per_shard, no slot.
    """
    by_shard = [[slot for slot in slots if slot // per_shard == shard] for shard in range(shards)]
    chunks = []
    for part, rows in row_chunks(max(map(len, by_shard)), [size // shards for size in ladder]):
        chunk = np.full((shards, rows), shards * per_shard, np.int32)
        for row, own in zip(chunk, by_shard, strict=True):
            row[: len(own[part])] = own[part]
        chunks.append(chunk.ravel())
    return chunks


def padded(lists: Sequence[np.ndarray], rows: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (ids int32 [rows, length], counts int32 [rows])."""
    ids, counts = np.zeros((rows, length), np.int32), np.zeros(rows, np.int32)
    for row, values in enumerate(lists):
        ids[row, : len(values)], counts[row] = values, len(values)
    return ids, counts


@dataclasses.dataclass(frozen=True)
class Prefixes:
    """place: for each request its (batch, row). first: for each batch, the first request of each row."""

    place: list[tuple[int, int]]
    first: list[list[int]]


def prefix_batches(groups: Sequence[int], prompts: Sequence[np.ndarray], rows: int) -> Prefixes:
    """Returns the batches of `rows` prompts to prefill; neighbours with one group and one prompt share a row."""
    place, first = [], []
    last = None
    for index, (group, prompt) in enumerate(zip(groups, prompts, strict=True)):
        identity = (group, prompt.tobytes())
        if identity != last:
            last = identity
            if not first or len(first[-1]) == rows:
                first.append([])
            first[-1].append(index)
        place.append((len(first) - 1, len(first[-1]) - 1))
    return Prefixes(place, first)


def longest_first(groups: Sequence[int], expected: Sequence[float]) -> list[int]:
    """Returns the order in which to admit requests: groups by their longest expected request, longest first.

    Requests of consecutive equal groups stay together and in order, as they share a prefilled prompt. Equal
    expectations keep the order given.
    """
    runs: list[list[int]] = []
    for index, group in enumerate(groups):
        if index and group == groups[index - 1]:
            runs[-1].append(index)
        else:
            runs.append([index])
    runs.sort(key=lambda run: -max(expected[index] for index in run))
    return [index for run in runs for index in run]
