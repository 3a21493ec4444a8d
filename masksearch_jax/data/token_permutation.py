"""Token permutation: every draw permutes the exchangeable tokens, so that a model cannot memorise names.

Enters: groups of exchangeable vocabulary ids (first words of names, second words, digits, months), which `prepare`
writes to augment.json. Leaves: permutations of the vocabulary, keyed by integers that identify the example.
A model trained on permuted ids has to copy an entity from its context, because its tokens have no meaning of their own.
"""

from collections.abc import Sequence, Set
from pathlib import Path

import numpy as np

from masksearch_jax.runtime.json_files import read_json_object

# Keeps the draws distinct from other random streams that are keyed by the same integers.
_STREAM = 0x7065726D


class TokenPermutation:
    """Random permutations of the vocabulary that move ids inside their group and leave all other ids in place."""

    def __init__(self, groups: Sequence[Sequence[int | Sequence[int]]], vocab_size: int):
        """groups: members are ids, or lists of ids that move together (a figure with and without the space before it).

        Raises ValueError for an id outside the vocabulary or one that is listed twice.
        """
        self.vocab_size = vocab_size
        # A group holds ids, or lists of ids of one length; numpy makes a table of either.
        tables = [np.array(group, np.int32).reshape(len(group), -1) for group in groups]
        self.groups = tuple(table[np.lexsort(table.T[::-1])] for table in tables)
        seen: set[int] = set()
        for number, group in enumerate(self.groups):
            for token in group.ravel().tolist():
                if not 0 <= token < vocab_size:
                    raise ValueError(f"augment groups[{number}]: id {token} is outside the vocabulary of {vocab_size}")
                if token in seen:
                    raise ValueError(f"augment groups[{number}]: id {token} is listed twice")
                seen.add(token)

    def without(self, held: Set[int]) -> "TokenPermutation":
        """Return the permutations that leave the ids of `held` in place, and those that would move with one."""
        rows = [[row for row in group.tolist() if held.isdisjoint(row)] for group in self.groups]
        return TokenPermutation([group for group in rows if len(group) > 1], self.vocab_size)

    def draw(self, seed: int, *key: int) -> np.ndarray:
        """Return a permutation int32 [vocab_size], a function of (seed, *key) alone. The model sees out[i] for id i.

        seed and key: integers >= 0.
        """
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([_STREAM, seed, *key])))
        permutation = np.arange(self.vocab_size, dtype=np.int32)
        for group in self.groups:
            permutation[group] = rng.permutation(group)
        return permutation

    @staticmethod
    def inverse(permutation: np.ndarray) -> np.ndarray:
        """Return the inverse of a permutation, an array like it: inverse(p)[p[i]] == i."""
        out = np.empty_like(permutation)
        out[permutation] = np.arange(len(permutation), dtype=permutation.dtype)
        return out

    def describe(self) -> list[list[list[int]]]:
        """Return the groups as plain JSON data, each member a list of ids, for a fingerprint."""
        return [group.tolist() for group in self.groups]


def load(path: Path | str, vocab_size: int) -> TokenPermutation | None:
    """Return the permutation of the groups that `prepare` wrote, or None if there are no groups.

    There are none for the tokenizer of a published model. Raises FileNotFoundError or ValueError that names the file.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; write it with `python -m masksearch_jax.prepare`")
    data = read_json_object(path, "prepare the data again", ("groups",))
    return TokenPermutation(data["groups"], vocab_size) if data["groups"] else None
