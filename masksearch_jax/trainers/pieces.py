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
    kinds, fixed = stops.build(tokenizer).kinds, stops.fixed_ids(tokenizer)
    for number, group in enumerate(found.groups if found else ()):
        moved = (kinds[group] != kinds[group[0]]) | np.isin(group, fixed)
        if moved.any():
            piece = tokenizer.piece(int(group[moved][0]))
            raise ValueError(
                f"{path}: groups[{number}] permutes the piece {piece!r}, which can stand in a tag or end a turn; "
                "prepare the data again, with --config.overwrite=True"
            )
    return found
