"""What the project needs of a tokenizer: the interface of our SentencePiece models and of published tokenizers.

`text.tokenizer.load(data_dir)` opens whichever of the two `prepare` has put into a data directory.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol


class Tokenizer(Protocol):
    """Text to ids and back. Thread-safe; pickled by its path.

    path: the file or folder it was read from. fingerprint: sha256 of everything that decides its ids. vocab_size: one
    more than the largest id. eos_id: the id that ends a text. end_ids: every id that does so, eos_id included. pad_id:
    the id that fills rows. prefix_ids: the ids that each prompt starts with (a beginning-of-sequence token), or [].
    token_bytes: the bytes that each id stands for. A text is the concatenation of its tokens' bytes; one token may hold
    part of a character.
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
        """Return the ids of a text as data: it makes no control token, whatever it spells."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]: ...

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of a whole id list; bytes that are no UTF-8 become U+FFFD."""
        ...

    def id(self, token: str) -> int:
        """Return the id of a token. Raises KeyError if the vocabulary lacks it."""
        ...

    def token(self, id: int) -> str: ...
