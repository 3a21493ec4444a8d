"""The piece permutation that SFT and DAPO draw from, refused before any training if a draw could move a tag or the end
of a turn.

In: W/data/augment.json and the tokenizer beside it. The rollout engine checks each draw; SFT runs before it, and may
take hours.
"""

from pathlib import Path

import numpy as np

from masksearch_jax.data import augment
from masksearch_jax.text import stops
from masksearch_jax.text.interface import Tokenizer


def load(data_dir: Path, tokenizer: Tokenizer) -> augment.PiecePermutation | None:
    """Returns what `augment.load` does; raises ValueError that names the file, the group and a piece."""
    path = data_dir / "augment.json"
    found = augment.load(path, tokenizer.vocab_size)
    if found is None:
        return None
    kinds, fixed = stops.build(tokenizer).kinds, stops.fixed_ids(tokenizer)
    ordinary = np.bincount(kinds).argmax()  # of pieces that say nothing of a turn's end
    for number, group in enumerate(found.groups):
        tagged = np.isin(group, fixed)
        if tagged.any() or (kinds[group] != kinds[group[0]]).any():
            piece = tokenizer.piece(int(group[tagged | (kinds[group] != ordinary)][0]))
            raise ValueError(
                f"{path}: groups[{number}] permutes the piece {piece!r}, which can stand in a tag or end a turn; "
                "prepare the data again, with --config.overwrite=True"
            )
    return found
