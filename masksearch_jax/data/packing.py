"""Packing of several sequences into one row: the row of each sequence, and the arrays of the rows.

Enters: token sequences of any length, each with arrays of one value per token. Leaves: dense [rows, row_length]
arrays with segment ids and positions that restart per sequence, so that attention and losses keep the sequences
apart. SFT and RL both use it. Left out: splitting or truncating; a sequence that fits no row is an error.
"""

from collections.abc import Mapping, Sequence

import numpy as np


def pack(lengths: Sequence[int], row_length: int, names: Sequence[str] | None = None) -> list[list[int]]:
    """Assign sequences to rows by first fit in the order given, and return the indices of the sequences in each row.

    lengths: tokens per sequence. names: the names of the sequences in an error (default: their indices). Every index
    is returned once, and the result depends on the arguments alone. Raises ValueError that names a sequence which is
    empty or longer than `row_length`.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for index, length in enumerate(lengths):
        name = names[index] if names is not None else f"number {index}"
        check_length(length, row_length, name)
        row = first_fit(room, length)
        if row is None:
            row = len(rows)
            rows.append([])
            room.append(row_length)
        rows[row].append(index)
        room[row] -= length
    return rows


def check_length(length: int, row_length: int, name: str) -> None:
    """Raise ValueError if a sequence of `length` tokens, called `name`, is empty or does not fit a row."""
    if length > row_length:
        raise ValueError(
            f"sequence {name} has {length} tokens but row_length is {row_length}; raise row_length to at least "
            f"{length}, or leave the sequence out before packing (it is never truncated)"
        )
    if length < 1:
        raise ValueError(f"sequence {name} has no tokens")


def first_fit(room: Sequence[int], length: int) -> int | None:
    """Return the first row with room for `length` tokens, or None. room: the free tokens of each row."""
    for row, free in enumerate(room):
        if length <= free:
            return row
    return None


def fill(
    rows: Sequence[Sequence[int]],
    sequences: Sequence[Mapping[str, np.ndarray]],
    row_length: int,
    rows_count: int,
) -> dict[str, np.ndarray]:
    """Return the arrays of the packed rows.

    rows: as `pack` returns them. sequences: for each sequence its 'ids' and any other features, arrays [length] of one
    value per token; all sequences have the same features. rows_count: rows of the result, at least len(rows); the
    surplus rows are padding.
    The result is {'ids', 'positions', 'segments': int32 [rows_count, row_length], and every other feature in the dtype
    that it has in the first sequence}. Positions restart at 0 in each sequence, segments count 1, 2, .. along a row,
    and padding is 0 everywhere. Raises ValueError for too many rows, a row that is too full, no sequences at all, or a
    feature whose length differs from that of its ids.
    """
    if len(rows) > rows_count:
        raise ValueError(f"{len(rows)} packed rows do not fit rows_count={rows_count}")
    if not sequences:
        raise ValueError("nothing to fill: no sequences given")
    shape = (rows_count, row_length)
    features = {name: np.asarray(value).dtype for name, value in sequences[0].items()}
    batch = {name: np.zeros(shape, np.int32 if name == "ids" else dtype) for name, dtype in features.items()}
    batch["positions"] = np.zeros(shape, np.int32)
    batch["segments"] = np.zeros(shape, np.int32)
    for row, members in enumerate(rows):
        start = 0
        for segment, index in enumerate(members, start=1):
            sequence = sequences[index]
            length = len(sequence["ids"])
            end = start + length
            if end > row_length:
                raise ValueError(f"row {row} holds {end} tokens, row_length is {row_length}")
            for name in features:
                if len(sequence[name]) != length:
                    raise ValueError(
                        f"sequence {index}: feature {name!r} has {len(sequence[name])} values for {length} ids"
                    )
                batch[name][row, start:end] = sequence[name]
            batch["positions"][row, start:end] = np.arange(length)
            batch["segments"][row, start:end] = segment
            start = end
    return batch


def of_next(values: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """Return a per-token feature shifted to the positions that predict the tokens.

    values, segments: [.., row_length]. The result has the shape and dtype of `values`. out[.., t] = values[.., t + 1]
    where both positions are in one segment, and 0 where position t predicts nothing (the last of a segment, padding).
    So `of_next(ids, segments)` are the targets and `of_next(trainable, segments)` is the loss mask.
    """
    out = np.zeros_like(values)
    same = (segments[..., 1:] == segments[..., :-1]) & (segments[..., :-1] > 0)
    out[..., :-1] = np.where(same, values[..., 1:], np.zeros((), values.dtype))
    return out
