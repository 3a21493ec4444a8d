"""Padding of ragged work to fixed shapes: which bucket, which rows share a program, and the padding. Pure numpy.

A program compiles once per shape, so shapes come from a few buckets and the rest of each shape is padding.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np


def clipped(buckets: Sequence[int], largest: int) -> tuple[int, ...]:
    """Return the buckets, each capped at `largest`, sorted and without duplicates."""
    return tuple(sorted({min(size, largest) for size in buckets}))


def to_the_end(buckets: Sequence[int], largest: int) -> tuple[int, ...]:
    """Return the buckets capped at `largest`, with `largest` as the last one, so that every size up to it fits."""
    return clipped((*buckets, largest), largest)


def bucket_for(buckets: Sequence[int], size: int) -> int:
    """Return the smallest bucket that holds `size`, or the largest bucket if none does."""
    return next((entry for entry in buckets if entry >= size), buckets[-1])


def row_chunks(count: int, buckets: Sequence[int]) -> list[tuple[slice, int]]:
    """Return (slice of the rows, program width) of each part that `count` rows are cut into.

    The widest bucket is used while more rows than it holds are left, then the narrowest bucket that fits the rest.
    """
    chunks, start = [], 0
    while start < count:
        rows = bucket_for(buckets, count - start)
        end = min(count, start + rows)
        chunks.append((slice(start, end), rows))
        start = end
    return chunks


def shard_chunks(slots: Sequence[int], per_shard: int, shards: int, buckets: Sequence[int]) -> list[np.ndarray]:
    """Return the slots that each program call works on, int32 [R] each; R is one of `buckets`, multiples of `shards`.

    The entries of a call are cut into `shards` equal parts. Part r holds slots of shard r (slot // per_shard), in the
    order given. Unused entries are shards * per_shard, which is no slot.
    """
    by_shard = [[slot for slot in slots if slot // per_shard == shard] for shard in range(shards)]
    chunks = []
    for part, rows in row_chunks(max(map(len, by_shard)), [size // shards for size in buckets]):
        chunk = np.full((shards, rows), shards * per_shard, np.int32)
        for row, own in zip(chunk, by_shard, strict=True):
            row[: len(own[part])] = own[part]
        chunks.append(chunk.ravel())
    return chunks


@dataclasses.dataclass(frozen=True)
class ExtendCall:
    """One call of an extend program: tokens start .. start + size - 1 of the lists of some slots.

    targets: int32 [R], as in `shard_chunks`. size: the length of the program; shorter lists are padded.
    """

    targets: np.ndarray
    start: int
    size: int


def extend_calls(
    lengths: Mapping[int, int], per_shard: int, shards: int, rows: Sequence[int], tokens: Sequence[int]
) -> list[ExtendCall]:
    """Return the calls that feed lengths[slot] > 0 tokens to each slot, in order.

    Slots of one call keep the order of `lengths`. rows, tokens: the buckets of program shapes. Lists longer than the
    last bucket of `tokens` are fed in several calls.
    """
    calls, start = [], 0
    while lengths:
        by_bucket: dict[int, list[int]] = {}
        for slot, length in lengths.items():
            by_bucket.setdefault(bucket_for(tokens, length - start), []).append(slot)
        for size, slots in sorted(by_bucket.items()):
            calls += [ExtendCall(chunk, start, size) for chunk in shard_chunks(slots, per_shard, shards, rows)]
        start += tokens[-1]
        lengths = {slot: length for slot, length in lengths.items() if length > start}
    return calls


def padded_tokens(calls: Sequence[ExtendCall]) -> int:
    """Return how many tokens pass through the model in these calls, padding included."""
    return sum(call.targets.size * call.size for call in calls)


def padded(lists: Sequence[np.ndarray], rows: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the lists as (ids int32 [rows, length], padded with 0, and their lengths, counts int32 [rows])."""
    ids, counts = np.zeros((rows, length), np.int32), np.zeros(rows, np.int32)
    for row, values in enumerate(lists):
        ids[row, : len(values)], counts[row] = values, len(values)
    return ids, counts


@dataclasses.dataclass(frozen=True)
class Prefixes:
    """Where prompts are prefilled.

    place: for each request its (batch, row). first: for each batch, the first request of each row.
    """

    place: list[tuple[int, int]]
    first: list[list[int]]


def prefix_batches(groups: Sequence[int], prompts: Sequence[np.ndarray], rows: int) -> Prefixes:
    """Return the batches of `rows` prompts to prefill. Consecutive requests of equal group and prompt share a row."""
    place: list[tuple[int, int]] = []
    first: list[list[int]] = []
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


def longest_first(groups: Sequence[int], length_hints: Sequence[float]) -> list[int]:
    """Return the order in which requests are inserted: the groups with the largest length hint come first.

    Consecutive requests of one group stay together and in order, because they share a prefilled prompt. Groups with
    equal length hints keep the order given.
    """
    runs: list[list[int]] = []
    for index, group in enumerate(groups):
        if index and group == groups[index - 1]:
            runs[-1].append(index)
        else:
            runs.append([index])
    runs.sort(key=lambda run: -max(length_hints[index] for index in run))
    return [index for run in runs for index in run]
