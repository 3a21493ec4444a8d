"""Piece permutation: every draw renames the exchangeable pieces, so that names cannot be learnt by heart.

Enters: groups of vocabulary ids that may stand for one another (first words of names, second words, digits, months),
written by `prepare` to augment.json. Leaves: permutations of the vocabulary, keyed by whatever identifies the example.
A model trained on permuted ids must copy an entity from its context, since the piece means nothing by itself.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from masksearch_jax.runtime.json_files import read_json_object

# Keeps the draw apart from other streams that are keyed by the same integers.
_STREAM = 0x7065726D


class PiecePermutation:
    """Draws permutations that move ids inside their group and leave all other ids alone."""

    def __init__(self, groups: Sequence[Sequence[int | Sequence[int]]], vocab_size: int):
        """groups: members are ids, or lists of ids that move together (a figure with and without the space before it).

        Raises ValueError for an id outside the vocabulary or one that is listed twice.
        """
        self.vocab_size = vocab_size
        self.groups = tuple(np.array(sorted(group), np.int32).reshape(len(group), -1) for group in groups)
        seen: set[int] = set()
        for number, group in enumerate(self.groups):
            for piece in group.ravel().tolist():
                if not 0 <= piece < vocab_size:
                    raise ValueError(f"augment groups[{number}]: id {piece} is outside the vocabulary of {vocab_size}")
                if piece in seen:
                    raise ValueError(f"augment groups[{number}]: id {piece} is listed twice")
                seen.add(piece)

    def draw(self, seed: int, *key: int) -> np.ndarray:
        """Returns int32 [vocab_size], a function of (seed, *key) alone: id i is shown to the model as out[i].

        seed and key: integers of 0 or more.
        """
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([_STREAM, seed, *key])))
        permutation = np.arange(self.vocab_size, dtype=np.int32)
        for group in self.groups:
            permutation[group] = rng.permutation(group)
        return permutation

    @staticmethod
    def inverse(permutation: np.ndarray) -> np.ndarray:
        """Returns int32 [V] that undoes a permutation: inverse(p)[p[i]] == i."""
        out = np.empty_like(permutation)
        out[permutation] = np.arange(len(permutation), dtype=permutation.dtype)
        return out

    def describe(self) -> list[list[list[int]]]:
        """Returns the groups as plain JSON data, each member a list of ids, for a fingerprint."""
        return [group.tolist() for group in self.groups]


def load(path: Path | str, vocab_size: int) -> PiecePermutation | None:
    """Reads the groups that `prepare` wrote; None if there are none, as with the tokenizer of a published model.

    Raises FileNotFoundError or ValueError that names the file.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; write it with `python -m masksearch_jax.prepare`")
    data = read_json_object(path, "prepare the data again", ("groups",))
    return PiecePermutation(data["groups"], vocab_size) if data["groups"] else None
