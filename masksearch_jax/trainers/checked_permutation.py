"""The token permutation that SFT and DAPO draw from, checked before training.

It is refused if a draw could move a tag or the end of a turn. In: W/data/augment.json and the tokenizer beside it. The
rollout engine checks each draw, but SFT runs before it and may take hours, so the check is made here first.
Of tools beside the search, whose tags `prepare` does not know, the parts that spell their tags are left in place.
"""

from pathlib import Path

import numpy as np

from masksearch_jax.data import token_permutation
from masksearch_jax.text import stop_automaton, tags
from masksearch_jax.text.tokenizer_protocol import Tokenizer


def load(
    data_dir: Path, tokenizer: Tokenizer, tools: tuple[str, ...] = tags.ONE_TOOL
) -> token_permutation.TokenPermutation | None:
    """Return what `token_permutation.load` returns, for episodes with these tools.

    Raises ValueError that names the file, the group and a token.
    """
    path = data_dir / "augment.json"
    found = token_permutation.load(path, tokenizer.vocab_size)
    if found is None:
        return None
    kinds, fixed = stop_automaton.build_table(tokenizer).kinds, stop_automaton.fixed_ids(tokenizer)
    ordinary = np.bincount(kinds).argmax()  # the kind of tokens that have no part in ending a turn
    for number, group in enumerate(found.groups):
        tagged = np.isin(group, fixed)
        if tagged.any() or (kinds[group] != kinds[group[0]]).any():
            token = tokenizer.token(int(group[tagged | (kinds[group] != ordinary)][0]))
            raise ValueError(
                f"{path}: groups[{number}] permutes the token {token!r}, which can stand in a tag or end a turn; "
                "prepare the data again, with --config.overwrite=True"
            )
    if tools == tags.ONE_TOOL:
        return found
    kinds = stop_automaton.build_table(tokenizer, closing=tags.closing_tags(tools)).kinds
    ordinary = np.bincount(kinds).argmax()
    held = {*stop_automaton.fixed_ids(tokenizer, tools).tolist(), *np.flatnonzero(kinds != ordinary).tolist()}
    return found.without(held)
