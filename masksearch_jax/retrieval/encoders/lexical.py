"""A self-contained lexical encoder: a signed random projection of TF-IDF, so that dense search serves keywords too.

Enters: texts. Leaves: float32 [n, dims] unit vectors. Their inner product approximates, with noise of about
1/sqrt(dims), the cosine of TF-IDF vectors over words and pairs of adjacent words, with binary term frequency and weight
sqrt(idf). The projection is a sparse Johnson-Lindenstrauss map (Kane and Nelson 2014): each feature adds its weight at
`_NONZEROS` places with random signs, all taken from a hash of the feature. No vocabulary is stored: document
frequencies are counted in hash buckets, so memory stays constant whatever the corpus. Left out: stemming, stop words.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from masksearch_jax.retrieval.encoders import encoder
from masksearch_jax.runtime.json_files import read_json_object
from masksearch_jax.text.shingles import mix, word_hash, words

_FREQUENCIES_FILE = "frequencies.npz"
_BUCKETS = 1 << 22
_NONZEROS = 4
_FIT_BATCH = 1024
_ENCODE_BATCH = 512  # bounds the [batch, dims] float64 sums

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _features(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return (row int64 [m], hash uint64 [m]) of the distinct words and word pairs of each text, sorted by both."""
    hashes, rows = [], []
    for row, text in enumerate(texts):
        found = [word_hash(word) for word in words(text)]
        hashes.extend(found)
        rows.extend([row] * len(found))
    single = np.array(hashes, np.uint64)
    row_of = np.array(rows, np.int64)
    adjacent = row_of[1:] == row_of[:-1]
    pairs = mix(single[:-1] + _GOLDEN)[adjacent] ^ single[1:][adjacent]
    row_of = np.concatenate([row_of, row_of[1:][adjacent]])
    feature = mix(np.concatenate([single, pairs]))
    order = np.lexsort((feature, row_of))
    row_of, feature = row_of[order], feature[order]
    first = np.ones(len(row_of), bool)  # binary term frequency: keep one of each
    first[1:] = (row_of[1:] != row_of[:-1]) | (feature[1:] != feature[:-1])
    return row_of[first], feature[first]


def _batches(items: Iterable[str], size: int) -> Iterator[list[str]]:
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch


class LexicalEncoder:
    """See the module docstring. Immutable; made by `fit` or `load`."""

    def __init__(self, documents: int, buckets: np.ndarray, counts: np.ndarray, dims: int):
        """buckets int64 [m], ascending: hash buckets in use.

        counts int64 [m]: the summed document frequencies of the features in each bucket.
        """
        if documents < 1:
            raise ValueError("the lexical encoder was fitted on 0 passages; give it at least one")
        if dims < 8:
            raise ValueError(f"dims of the lexical encoder is {dims}, must be at least 8 (1024 is a good value)")
        self.dims = dims
        self._documents, self._buckets, self._counts = documents, buckets, counts
        # sqrt(idf). A feature that is in no passage matches nothing and would only add noise: its weight is 0.
        idf = np.log((documents + 1) / (np.minimum(counts, documents) + 0.5))
        self._weights = np.zeros(_BUCKETS, np.float32)
        self._weights[buckets] = np.sqrt(idf)
        digest = hashlib.sha256(json.dumps(["lexical", 1, documents, dims, _NONZEROS, _BUCKETS]).encode())
        digest.update(buckets.tobytes())
        digest.update(counts.tobytes())
        self.fingerprint = digest.hexdigest()

    @classmethod
    def fit(cls, texts: Iterable[str], dims: int = 1024) -> "LexicalEncoder":
        """Return the encoder fitted on the texts (made by `encoder.passage_text`).

        It counts their document frequencies in one pass and constant memory.
        """
        table = np.zeros(_BUCKETS, np.int64)
        documents = 0
        for batch in _batches(texts, _FIT_BATCH):
            documents += len(batch)
            used, counts = np.unique(_features(batch)[1] % np.uint64(_BUCKETS), return_counts=True)
            table[used] += counts
        buckets = np.flatnonzero(table)
        return cls(documents, buckets, table[buckets], dims)

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        """Return float32 [n, dims] unit rows; zeros where no word of the text occurs in the passages."""
        out = np.zeros((len(texts), self.dims), np.float32)
        for start in range(0, len(texts), _ENCODE_BATCH):
            out[start : start + _ENCODE_BATCH] = self._encode(texts[start : start + _ENCODE_BATCH])
        return out

    encode_passages = encode_queries

    def _encode(self, texts: Sequence[str]) -> np.ndarray:
        row, feature = _features(texts)
        weight = self._weights[feature % np.uint64(_BUCKETS)]
        known = weight > 0
        row, feature, weight = row[known], feature[known], weight[known]
        draws = mix(feature[:, None] + _GOLDEN * np.arange(1, _NONZEROS + 1, dtype=np.uint64))  # [m, nonzeros]
        place = row[:, None] * self.dims + ((draws >> np.uint64(1)) % np.uint64(self.dims)).astype(np.int64)
        signed = np.where(draws & np.uint64(1), weight[:, None], -weight[:, None])
        size = len(texts) * self.dims
        sums = np.bincount(place.ravel(), signed.ravel(), minlength=size).reshape(len(texts), self.dims)
        norm = np.sqrt(np.square(sums).sum(axis=1, keepdims=True))
        return (sums / np.where(norm > 0, norm, 1)).astype(np.float32)

    def save(self, directory: Path | str) -> None:
        """Write encoder.json and frequencies.npz into an existing folder."""
        directory = Path(directory)
        settings = {"kind": "lexical", "documents": self._documents, "dims": self.dims, "fingerprint": self.fingerprint}
        np.savez_compressed(directory / _FREQUENCIES_FILE, buckets=self._buckets, counts=self._counts)
        (directory / encoder.SETTINGS_FILE).write_text(json.dumps(settings, indent=1) + "\n")

    @classmethod
    def load(cls, directory: Path | str) -> "LexicalEncoder":
        """Return the encoder that `save` wrote; raise ValueError if the files disagree."""
        directory = Path(directory)
        settings = read_json_object(
            directory / encoder.SETTINGS_FILE, "build the index again with `python -m masksearch_jax.prepare`",
            ("documents", "dims", "fingerprint"),
        )  # fmt: skip
        with np.load(directory / _FREQUENCIES_FILE) as stored:
            made = cls(settings["documents"], stored["buckets"], stored["counts"], settings["dims"])
        if made.fingerprint != settings["fingerprint"]:
            raise ValueError(
                f"{directory}: {_FREQUENCIES_FILE} is not the one {encoder.SETTINGS_FILE} was written with, or it is "
                "of another version; build the index again with `python -m masksearch_jax.prepare`"
            )
        return made
