"""What an encoder is, and loading one from the folder it was saved in.

Enters: texts. Leaves: unit vectors, float32 [n, dims], whose inner product is the relevance. Two encoders exist:
`lexical` (self-contained, fitted on the passages) and `bert` (Flax, published weights). Left out: BM25 (hybrid.py).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from masksearch_jax.runtime.json_files import read_json_object

SETTINGS_FILE = "encoder.json"


class Encoder(Protocol):
    """Texts to unit vectors. A row never depends on the other rows of its call. Thread-safe."""

    dims: int
    fingerprint: str  # changes when any vector would

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        """Returns float32 [n, dims]; a row of zeros where the text says nothing to this encoder."""
        ...

    def encode_passages(self, texts: Sequence[str]) -> np.ndarray:
        """Returns float32 [n, dims] for texts made by `passage_text`."""
        ...

    def save(self, directory: Path) -> None:
        """Writes everything that `load` needs into an existing folder."""
        ...


def passage_text(title: str, text: str) -> str:
    """The one form in which a passage is encoded: 'title\\ntext', as in published HotpotQA retrieval figures."""
    return f"{title}\n{text}" if title else text


def load(directory: Path | str) -> Encoder:
    """Returns the encoder saved in `directory`; raises FileNotFoundError or ValueError that names the file."""
    path = Path(directory) / SETTINGS_FILE
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; build the index again with `python -m masksearch_jax.prepare`")
    kind = read_json_object(path, "build the index again with `python -m masksearch_jax.prepare`", ("kind",))["kind"]
    if kind == "lexical":
        from masksearch_jax.retrieval import lexical

        return lexical.LexicalEncoder.load(directory)
    if kind == "bert":
        from masksearch_jax.retrieval import bert  # imports jax, which the lexical path does without

        return bert.BertEncoder.load(directory)
    raise ValueError(f"{path}: kind is {kind!r}, known are 'lexical' and 'bert'")
