"""What the project asks of a tokenizer: our SentencePiece models and those of published checkpoints alike.

`text.tokenizer.load(data_dir)` opens whichever of the two prepare left in a data directory.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol


class Tokenizer(Protocol):
    """Text to ids and back. Thread-safe; pickles by its path.

    path: the file or folder it was read from. fingerprint: sha256 of all that decides its ids. vocab_size: one more
    than the largest id. eos_id: ends a text; end_ids: every id that does, eos_id included. pad_id: fills rows.
    prefix_ids: what each prompt starts with (a beginning-of-sequence token), [] for nothing.
    token_bytes: for each id the bytes it stands for. A text is the concatenation of its tokens' bytes; one token may
    hold part of a character.
    """

    path: Path
    fingerprint: str
    vocab_size: int
    pad_id: int
    eos_id: int
    end_ids: tuple[int, ...]
    prefix_ids: list[int]

    @property
    def token_bytes(self) -> list[bytes]: ...

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text as data: no control token comes of it, whatever it spells."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]: ...

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of a whole id list; bytes that are no UTF-8 become U+FFFD."""
        ...

    def id(self, piece: str) -> int:
        """Raises KeyError if the vocabulary lacks the piece."""
        ...

    def piece(self, id: int) -> str: ...
