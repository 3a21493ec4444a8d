"""The encoder interface, and loading an encoder from the folder it was saved in.

Enters: texts. Leaves: unit vectors, float32 [n, dims], whose inner product is the relevance. Two encoders exist:
`lexical` (self-contained, fitted on the passages) and `bert` (Flax, published weights). Left out: BM25 (index/bm25.py).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from masksearch_jax.runtime.json_files import read_json_object

SETTINGS_FILE = "encoder.json"


class Encoder(Protocol):
    """An encoder of texts as unit vectors. A row never depends on the other rows of its call. Thread-safe."""

    dims: int
    fingerprint: str  # changes whenever any vector would

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        """Return float32 [n, dims]; a row of zeros for a text in which the encoder knows nothing."""
        ...

    def encode_passages(self, texts: Sequence[str]) -> np.ndarray:
        """Return float32 [n, dims] for texts made by `passage_text`."""
        ...

    def save(self, directory: Path) -> None:
        """Write everything that `load` needs into an existing folder."""
        ...


def passage_text(title: str, text: str) -> str:
    """Return the one form in which a passage is encoded: 'title\\ntext', as in published HotpotQA retrieval figures."""
    return f"{title}\n{text}" if title else text


def load(directory: Path | str) -> Encoder:
    """Return the encoder saved in `directory`; raise FileNotFoundError or ValueError that names the file."""
    path = Path(directory) / SETTINGS_FILE
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; build the index again with `python -m masksearch_jax.prepare`")
    kind = read_json_object(path, "build the index again with `python -m masksearch_jax.prepare`", ("kind",))["kind"]
    if kind == "lexical":
        from masksearch_jax.retrieval.encoders import lexical

        return lexical.LexicalEncoder.load(directory)
    if kind == "bert":
        from masksearch_jax.retrieval.encoders import bert  # imports jax, which the lexical encoder does without

        return bert.BertEncoder.load(directory)
    raise ValueError(f"{path}: kind is {kind!r}, known are 'lexical' and 'bert'")
