"""Tokenizers as SeqIO vocabularies, with which the SeqIO tasks encode.

Enters: a tokenizer (text/tokenizer_protocol.py). Leaves: SeqIO's own SentencePiece vocabulary for a model that prepare
trained, or a vocabulary over the `tokenizers` library for the tokenizer of a published checkpoint.

The second one leaves TensorFlow's graph for the length of a batch, since TF Text has no byte-level BPE. The library is
written in Rust and holds no interpreter lock, so the tasks' parallel maps stay parallel.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import seqio
import tensorflow as tf

from masksearch_jax.text import tokenizer_protocol
from masksearch_jax.text.published_tokenizer import PublishedTokenizer


class PublishedVocabulary(seqio.Vocabulary):
    """A seqio.Vocabulary whose ids are those of a PublishedTokenizer.

    Its padding id is the tokenizer's. SeqIO's feature converters fill rows with 0 all the same, which is an ordinary
    token here ('!' in Qwen). Our export does not use them; code that does has to mask by length.
    """

    def __init__(self, tokenizer: PublishedTokenizer):
        super().__init__()
        self.tokenizer = tokenizer

    @property
    def bos_id(self) -> int | None:
        return self.tokenizer.prefix_ids[0] if self.tokenizer.prefix_ids else None

    @property
    def eos_id(self) -> int:
        return self.tokenizer.eos_id

    @property
    def pad_id(self) -> int:
        return self.tokenizer.pad_id

    @property
    def unk_id(self) -> None:
        return None  # byte tokens can spell every text

    @property
    def _base_vocab_size(self) -> int:
        return self.tokenizer.vocab_size

    def _encode(self, s: str) -> list[int]:
        return self.tokenizer.encode(s)

    def _decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids)

    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor | tf.RaggedTensor:
        """Encode a string [] to int32 [n], or strings [B] to ragged int32 [B, (n)]."""
        if s.shape.rank not in (0, 1):
            raise ValueError(f"texts of shape {s.shape}: one text or a batch of them can be encoded")
        ids, lengths = tf.numpy_function(
            self._encode_batch, [tf.reshape(s, [-1])], (tf.int32, tf.int64), stateful=False
        )
        ids.set_shape([None])
        lengths.set_shape([s.shape[0] if s.shape.rank else 1])
        return tf.RaggedTensor.from_row_lengths(ids, lengths, validate=False) if s.shape.rank else ids

    def _encode_batch(self, texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = self.tokenizer.encode_batch([text.decode() for text in texts])
        ids = np.fromiter((i for row in found for i in row), np.int32, sum(map(len, found)))
        return ids, np.array([len(row) for row in found], np.int64)

    def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        """Decode ids [n] to a string [], or ids [B, n] to strings [B]."""
        one = ids.shape.rank == 1
        texts = tf.numpy_function(self._decode_batch, [ids[None] if one else ids], tf.string, stateful=False)
        return texts[0] if one else texts

    def _decode_batch(self, rows: Iterable[Sequence[int]]) -> np.ndarray:
        return np.array([self.tokenizer.decode(row).encode() for row in rows], object)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PublishedVocabulary) and other.tokenizer.fingerprint == self.tokenizer.fingerprint

    def __hash__(self) -> int:
        return hash(self.tokenizer.fingerprint)


def of(tokenizer: tokenizer_protocol.Tokenizer) -> seqio.Vocabulary:
    """Return the SeqIO vocabulary that gives a tokenizer's ids."""
    if isinstance(tokenizer, PublishedTokenizer):
        return PublishedVocabulary(tokenizer)
    return seqio.SentencePieceVocabulary(str(tokenizer.path))
