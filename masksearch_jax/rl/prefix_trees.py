"""Rows of prefix trees: sequences that begin alike share the tokens of their common prefix.

Enters: the per-token arrays of sequences. Leaves: the arrays of rows, in which each different prefix stands once.
A row holds the tree (trie) of its sequences in depth-first preorder. The subtree of a token is then contiguous, so that
one number for each token, the end of its subtree, says who sees it: the token at index j sees that at index i if and
only if i <= j < ends[i]. What a sampled token is trained with stands in an entry of its own. So two samples may follow
one position with different tokens, or with the same token at different advantages.
Left out: which sequences belong to which optimizer step (update_batch.py).
"""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from masksearch_jax.data import packing

# Per-token arrays of a sequence whose values move to the entries of its sampled tokens.
PER_ENTRY = ("mask", "sampler_logp", "versions", "advantages")


def assign_rows(
    sequences: Sequence[Mapping[str, np.ndarray]], groups: Sequence[int], row_length: int
) -> list[list[int]]:
    """Return the indices of the sequences in each row, those of a row in the order of its tree.

    sequences: 'ids' and 'mask' of each. groups: the group of each. A row has room for `row_length` tokens of its tree
    and for as many entries. The sequences of a group stay together where their tree fits a row. Where it does not, the
    group is cut, in the order of the ids, before each sequence that does not fit any more. Trees are assigned largest
    first, each to the first row with room; what all sequences of a row begin with then stands once too.
    The result depends on the arguments alone. Raises ValueError for a sequence that is empty or fits no row.
    """
    for index, one in enumerate(sequences):
        packing.check_length(len(one["ids"]), row_length, f"number {index}")
    # Big-endian bytes sort like the ids. Sequences that share a prefix are then neighbours.
    order = sorted(range(len(sequences)), key=lambda i: (sequences[i]["ids"].astype(">u4").tobytes(), i))
    common = [0, *(_common(sequences[a]["ids"], sequences[b]["ids"]) for a, b in itertools.pairwise(order))]
    lengths = [len(sequences[i]["ids"]) for i in order]
    entries = [int(sequences[i]["mask"].sum()) for i in order]

    def tokens(places: Sequence[int]) -> int:
        """Return the size of the tree of the sequences at these ascending places of `order`."""
        shared = sum(min(common[a + 1 : b + 1]) for a, b in itertools.pairwise(places))
        return sum(lengths[place] for place in places) - shared

    def fits(places: Sequence[int]) -> bool:
        return tokens(places) <= row_length and sum(entries[place] for place in places) <= row_length

    trees: list[list[int]] = []
    by_group: dict[int, list[int]] = {}
    for place, index in enumerate(order):
        by_group.setdefault(groups[index], []).append(place)
    for places in by_group.values():
        tree: list[int] = []
        for place in places:
            if not fits([*tree, place]):
                trees.append(tree)
                tree = []
            tree.append(place)
        trees.append(tree)
    rows: list[list[int]] = []
    for tree in sorted(trees, key=lambda tree: (-tokens(tree), tree[0])):
        both = ((number, sorted([*row, *tree])) for number, row in enumerate(rows))
        number, joined = next((pair for pair in both if fits(pair[1])), (len(rows), tree))
        rows[number : number + 1] = [joined]
    return [[order[place] for place in row] for row in rows]


def _common(one: np.ndarray, other: np.ndarray) -> int:
    """Return the length of the common prefix of two arrays of ids."""
    length = min(len(one), len(other))
    different = np.flatnonzero(one[:length] != other[:length])
    return int(different[0]) if different.size else length


def fill(
    rows: Sequence[Sequence[int]], sequences: Sequence[Mapping[str, np.ndarray]], row_length: int, rows_count: int
) -> dict[str, np.ndarray]:
    """Return the arrays [rows_count, row_length] of rows as `assign_rows` returns them; surplus rows are padding.

    sequences: 'ids' and the features of PER_ENTRY, arrays of one value per token; mask[0] is False.
    Of each token of a tree, int32: 'ids', 'positions' (depth in the tree), 'segments' (1, 2, .. for the trees of a row
    with different first tokens, 0 for padding) and 'ends' (index one past the subtree; padding sees itself).
    Of each entry, all at the front of the row: the features of PER_ENTRY in the dtype of the first sequence, and int32
    'targets' (the sampled token), 'sources' (index of the token that predicts it) and 'sequences' (1, 2, .. for the
    sequences of the row that have entries). They are 0 where there is no entry.
    """
    shape = (rows_count, row_length)
    named = ("ids", "positions", "segments", "targets", "sources", "sequences")
    arrays = {name: np.zeros(shape, np.int32) for name in named}
    arrays |= {name: np.zeros(shape, sequences[0][name].dtype) for name in PER_ENTRY}
    arrays["ends"] = np.tile(np.arange(1, row_length + 1, dtype=np.int32), (rows_count, 1))
    for number, row in enumerate(rows):
        _fill_row({name: array[number] for name, array in arrays.items()}, [sequences[index] for index in row])
    return arrays


def _fill_row(row: dict[str, np.ndarray], sequences: Sequence[Mapping[str, np.ndarray]]) -> None:
    """Write the tree and the entries of sequences, which are sorted by their ids, to the arrays of one row."""
    tokens = entries = trees = written = 0
    path = ids = np.zeros(0, np.int32)  # of the last sequence: the index in the row of each of its tokens
    for one in sequences:
        shared = _common(ids, one["ids"])
        row["ends"][path[shared:]] = tokens
        ids = one["ids"]
        new = slice(tokens, tokens + len(ids) - shared)
        tokens, trees = new.stop, trees + (shared == 0)
        path = np.concatenate([path[:shared], np.arange(new.start, new.stop, dtype=np.int32)])
        row["ids"][new], row["positions"][new] = ids[shared:], np.arange(shared, len(ids))
        row["segments"][new] = trees
        sampled = np.flatnonzero(one["mask"])
        if sampled.size:
            own = slice(entries, entries + sampled.size)
            entries, written = own.stop, written + 1
            row["targets"][own], row["sources"][own] = ids[sampled], path[sampled - 1]
            row["sequences"][own] = written
            for name in PER_ENTRY:
                row[name][own] = one[name][sampled]
    row["ends"][path] = tokens
