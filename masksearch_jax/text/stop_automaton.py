"""Where a turn ends: at the first token that completes a closing tag in the decoded bytes, or at an end token.

Enters: a tokenizer. Leaves: two small arrays with which a device program follows the turn. It needs two gathers per
token, and knows after each token whether it was the last. This works for tags of one token or many, and for tokens that
complete a tag and go on (`>\\n`, `></`): the turn ends with that token, which stays as the model wrote it.
Left out: what the turn says (text/prompt.py), and the budget (rollout/device_programs.py).

The state says how much of a closing tag stands at the end of the bytes written so far. This is the automaton of Aho and
Corasick (1975), with one transition per byte. A token is then a function from states to states. A vocabulary of 150 000
tokens has few distinct functions (most tokens lead every state back to the start), so `kinds` holds the number of each
token's function and `steps` lists the functions. There is no table of states times vocabulary.
"""

import functools
import hashlib
from collections.abc import Sequence

import numpy as np

from masksearch_jax.text import tags
from masksearch_jax.text.tokenizer_protocol import Tokenizer

START = 0  # the state before the first token of a turn


class StopTable:
    """The transitions of the automaton, by token.

    kinds: unsigned [V], the kind of each token. steps: int32 [K, S + 2], the next state by kind and state. In states
    0 .. S-1 the turn goes on. `stopped` = S: a closing tag is complete. `ended` = S + 1: an end token was written.
    Tables with equal arrays are equal and hash alike, so a table can be a static argument of a program.
    """

    def __init__(self, kinds: np.ndarray, steps: np.ndarray):
        self.kinds, self.steps = kinds, steps
        self.stopped, self.ended = steps.shape[1] - 2, steps.shape[1] - 1
        self._digest = hashlib.sha256(kinds.tobytes() + b"\0" + steps.tobytes()).digest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StopTable) and self._digest == other._digest

    def __hash__(self) -> int:
        return hash(self._digest)

    def follow(self, states: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """Return the states after one more token each; integer arrays that broadcast.

        The same expression works on a device."""
        following: np.ndarray = self.steps[self.kinds[ids], states]
        return following

    def admits(self, permutation: np.ndarray) -> bool:
        """Return True if a token permutation leaves the end of every turn where it is."""
        return bool((self.kinds[np.asarray(permutation)] == self.kinds).all())


def fixed_ids(tokenizer: Tokenizer, tools: tuple[str, ...] = tags.ONE_TOOL) -> np.ndarray:
    """Return in ascending order the ids that no permutation may move: pad, eos, and those that spell the tags."""
    spelled: list[int] = sum(map(tokenizer.encode, tags.all_tags(tools)), [])
    return np.array(sorted({tokenizer.pad_id, tokenizer.eos_id, *spelled}))


def build_table(
    tokenizer: Tokenizer, vocab_size: int | None = None, closing: Sequence[str] = tags.CLOSING
) -> StopTable:
    """Return the table of a tokenizer.

    vocab_size: rows of the model's embedding, if it is padded beyond the vocabulary; the surplus ids stand for no
    bytes. closing: the tags that end a turn. Raises ValueError if the model has fewer rows than the tokenizer has ids.
    """
    size = tokenizer.vocab_size if vocab_size is None else vocab_size
    if size < tokenizer.vocab_size:
        raise ValueError(f"vocab_size={size}: the tokenizer {tokenizer.path} has {tokenizer.vocab_size} ids")
    automaton = _automaton(tuple(tag.encode() for tag in closing))
    reached = _reached(automaton, [*tokenizer.token_bytes, *[b""] * (size - tokenizer.vocab_size)])
    stopped, ended = automaton.shape[0] - 1, automaton.shape[0]
    reached = np.concatenate([reached, np.full((size, 1), ended, np.int32)], axis=1)  # ended stays ended
    # An end token ends the turn in every state, unless a tag is already complete.
    reached[list(tokenizer.end_ids), :stopped] = ended
    steps, kinds = np.unique(reached, axis=0, return_inverse=True)
    return StopTable(kinds.reshape(-1).astype(np.min_scalar_type(len(steps) - 1)), steps)


def closed_at(text: str, closing: Sequence[str] = tags.CLOSING) -> int:
    """Return the length of the shortest prefix of `text` that ends in a closing tag, -1 if there is none."""
    ends = [place + len(tag) for tag in closing if (place := text.find(tag)) >= 0]
    return min(ends, default=-1)


@functools.lru_cache(maxsize=4)
def _automaton(closing: tuple[bytes, ...]) -> np.ndarray:
    """Return int32 [S + 1, 256], the next state by state and byte; the last state (a complete tag) never changes."""
    prefixes = sorted({tag[:n] for tag in closing for n in range(len(tag))}, key=lambda prefix: (len(prefix), prefix))
    number = {prefix: state for state, prefix in enumerate(prefixes)}
    table = np.full((len(prefixes) + 1, 256), len(prefixes), np.int32)
    for prefix, state in number.items():
        for byte in range(256):
            seen = prefix + bytes([byte])
            if not any(tag in seen for tag in closing):
                # The longest suffix of the bytes seen that begins a tag; the empty suffix always does.
                table[state, byte] = next(number[seen[n:]] for n in range(len(seen) + 1) if seen[n:] in number)
    return table


def _reached(automaton: np.ndarray, token_bytes: Sequence[bytes]) -> np.ndarray:
    """Return int32 [V, S + 1], the state to which each token leads from each state."""
    lengths = np.array([len(data) for data in token_bytes])
    order = np.argsort(-lengths, kind="stable")  # longest first: the tokens with an n-th byte are the first rows
    flat = np.frombuffer(b"".join(token_bytes), np.uint8)
    starts = (np.cumsum(lengths) - lengths)[order]
    states = np.tile(np.arange(automaton.shape[0], dtype=np.int32), (len(lengths), 1))
    for place in range(lengths.max(initial=0)):
        longer = int((lengths > place).sum())
        states[:longer] = automaton[states[:longer], flat[starts[:longer] + place][:, None]]
    out = np.empty_like(states)
    out[order] = states
    return out
