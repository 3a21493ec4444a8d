"""The words of a text as numbers, and its shingles: runs of words that show whether two texts repeat each other.

Enters: text. Leaves: words, or hashes that are the same in every process and on every machine.
"""

import functools
import hashlib
import re

import numpy as np

from masksearch_jax.text.normal_forms import normal_form

SHINGLE_WORDS = 5
_CACHED_CHARS = 48  # a "word" of a hostile document may have any length

# A word is a run of letters and digits; a Chinese or Japanese character is a word of its own.
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_WORD = re.compile(rf"[{_CJK}]|[^\W_{_CJK}]+")
_ACCENTS = re.compile("[\u0300-\u036f]")


def words(text: str) -> list[str]:
    """Return the words of a text, case folded and without the accents of Latin, Greek and Cyrillic letters."""
    if not text.isascii():
        text = _ACCENTS.sub("", normal_form("NFKD", text))
    return _WORD.findall(text.casefold())


def word_hash(word: str) -> int:
    """Return a hash of 64 bits, the same in every process."""
    return _cached_hash(word) if len(word) <= _CACHED_CHARS else _hash(word)


def _hash(word: str) -> int:
    # Python's own hash differs from process to process.
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")


# At most 100 MB: an entry takes up to 400 bytes, because longer words are not cached.
_cached_hash = functools.lru_cache(maxsize=1 << 18)(_hash)


def mix(x: np.ndarray) -> np.ndarray:
    """Apply the finaliser of splitmix64 to a uint64 array: every output bit depends on every input bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


def word_hashes(text: str) -> np.ndarray:
    """Return uint64 [m], one hash for each word of the text, in order; the same in every process."""
    return np.array([word_hash(word) for word in words(text)], np.uint64)


def shingles_in_order(hashes: np.ndarray, width: int = SHINGLE_WORDS) -> np.ndarray:
    """Return uint64 [m], one shingle for each run of `width` words of a text.

    hashes: the `word_hashes` of the text. A shorter text is one shingle, an empty text has none."""
    if len(hashes) == 0:
        return hashes
    width = min(width, len(hashes))
    out = np.zeros(len(hashes) - width + 1, np.uint64)
    for offset in range(width):
        out = mix(out + hashes[offset : len(hashes) - width + 1 + offset])
    return out


def shingles_of(text: str, width: int = SHINGLE_WORDS) -> np.ndarray:
    """Return uint64 [m], the distinct shingles of a text in ascending order.

    A text shorter than `width` words is one shingle, an empty text has none."""
    return np.unique(shingles_in_order(word_hashes(text), width))


def share(left: np.ndarray, right: np.ndarray) -> float:
    """Return the share of the shorter text's shingles (`shingles_of`) that the other has too; 0 for an empty text."""
    shorter = min(len(left), len(right))
    return len(np.intersect1d(left, right, assume_unique=True)) / shorter if shorter else 0.0
