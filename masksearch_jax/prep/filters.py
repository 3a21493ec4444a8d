"""Filters for training passages that must give no tasks: copies of other passages, and what a benchmark asks about.

Enters: passages, and the question files of benchmarks. Leaves: for each passage, the reason why it is left out, or ''.
Only tasks of the train split are filtered. The passages themselves stay in the store and in every index, where tests
need them.

Near-duplicates are found by MinHash (Broder 1997) with banding (Leskovec, Rajaraman and Ullman, Mining of Massive
Datasets, section 3.4). Passages that agree in all rows of a band are compared. They are copies if the estimated Jaccard
similarity of their 5-word shingles reaches the threshold. The first of the copies stays; held-out passages count as
earlier than all others, so no training task repeats a held-out passage. With 16 bands of 4 rows, a pair of similarity
0.8 is compared with probability 0.9998, one of 0.7 with 0.99, one of 0.5 with 0.64.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from masksearch_jax.data.records import Passage
from masksearch_jax.evals import benchmarks
from masksearch_jax.runtime.types import ConfigSection
from masksearch_jax.text import shingles

_BANDS, _ROWS = 16, 4
_SEEDS = shingles.mix(np.arange(1, _BANDS * _ROWS + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
# Each passage is compared with at most this many of the first passages that share its band. Without a limit, the cost
# of boilerplate would be quadratic.
_COMPARED = 100


class Signed(NamedTuple):
    """A passage with its signature, as it is compared. Sorts held-out passages first, then by id."""

    is_train: bool
    id: int
    signature: bytes  # uint32 [_BANDS * _ROWS]


@dataclasses.dataclass(frozen=True)
class Filter:
    """The filter of passages.

    titles: of articles that benchmark questions rest on, as `title_key` writes them. ngrams: hashes of the n-grams of
    benchmark questions, of `n` words each. repeats: ids of near-duplicates.
    """

    titles: frozenset[str] = frozenset()
    ngrams: frozenset[int] = frozenset()
    n: int = 13
    repeats: frozenset[int] = frozenset()

    def reason(self, passage: Passage) -> str:
        """Return 'benchmark_title', 'benchmark_ngram' or 'near_duplicate', or '' for a passage that gives tasks."""
        if passage.split != "train":
            return ""
        if self.titles and title_key(passage.title) in self.titles:
            return "benchmark_title"
        if self.ngrams and not self.ngrams.isdisjoint(_ngrams(passage.text, self.n)):
            return "benchmark_ngram"
        return "near_duplicate" if passage.id in self.repeats else ""


def validate_filters(cfg: ConfigSection) -> None:
    """Raise ValueError or FileNotFoundError for settings of `filters` that cannot work."""
    if not 0 <= cfg.near_duplicate <= 1:
        raise ValueError(f"filters.near_duplicate={cfg.near_duplicate}: a similarity from 0 (off) to 1 is needed")
    if cfg.ngram < 2:
        raise ValueError(f"filters.ngram={cfg.ngram}: 2 words at least are needed; 13 is usual")
    of_benchmarks(cfg)


def of_benchmarks(cfg: ConfigSection) -> Filter:
    """Return the filter by titles and questions of cfg.benchmarks, entries 'NAME=FILE' such as
    'hotpotqa=hotpot_dev.json'.

    A question of fewer words than cfg.ngram has no n-gram, so nothing is filtered for it.
    """
    titles: set[str] = set()
    ngrams: set[int] = set()
    for entry in cfg.benchmarks:
        name, _, file = entry.partition("=")
        if name not in benchmarks.BENCHMARKS or not file:
            known = tuple(benchmarks.BENCHMARKS)
            raise ValueError(f"filters.benchmarks: {entry!r} is not NAME=FILE with a NAME of {known}")
        for question in benchmarks.read(name, file):
            titles.update(title_key(title) for title in question.supporting_titles)
            ngrams.update(_ngrams(question.question, cfg.ngram))
    return Filter(frozenset(titles), frozenset(ngrams), cfg.ngram)


def title_key(title: str) -> str:
    """Return the form in which titles are compared: the words of the title."""
    return " ".join(shingles.words(title))


def _ngrams(text: str, n: int) -> list[int]:
    return shingles.shingles_of(text, n).tolist() if len(shingles.words(text)) >= n else []


def signature(text: str) -> np.ndarray | None:
    """Return the MinHash signature of a text, uint32 [_BANDS * _ROWS], or None for a text without words.

    The signatures of two texts agree at a position with a probability equal to the Jaccard similarity of their
    shingles.
    """
    found = shingles.shingles_of(text)
    if not len(found):
        return None
    return shingles.mix(found[:, None] ^ _SEEDS).min(axis=0).astype(np.uint32)


def bands(signature: np.ndarray) -> np.ndarray:
    """Return uint64 [_BANDS]: two results agree at a position where all rows of that band agree."""
    rows = signature.astype(np.uint64).reshape(_BANDS, _ROWS)
    out = _SEEDS[:_BANDS]  # equal rows at two positions do not give equal bands
    for row in range(_ROWS):
        out = shingles.mix(out + rows[:, row])
    return out


def repeats_among(group: Iterable[Signed], threshold: float) -> list[int]:
    """Return the ids of training passages that repeat an earlier passage of a group, which shares a band."""
    ordered = sorted(group)
    signatures = np.array([np.frombuffer(signed.signature, np.uint32) for signed in ordered])
    found = []
    for place, signed in enumerate(ordered):
        if signed.is_train and place:
            same = (signatures[: min(place, _COMPARED)] == signatures[place]).mean(axis=1)
            if same.max() >= threshold:
                found.append(signed.id)
    return found


def sign(passage: Passage, found: np.ndarray) -> Signed:
    """Return a passage together with its signature `found`."""
    return Signed(passage.split == "train", passage.id, found.tobytes())


def near_duplicates(passages: Callable[[], Iterable[Passage]], threshold: float) -> frozenset[int]:
    """Return the ids of training passages that repeat another passage. `passages()` is read twice.

    Memory: 128 bytes for each passage, and a signature of 256 bytes for each passage that shares a band.
    """
    ids: list[int] = []
    rows: list[np.ndarray] = []
    for passage in passages():
        if (found := signature(passage.text)) is not None:
            ids.append(passage.id)
            rows.append(bands(found))
    if not rows:
        return frozenset()
    runs = [np.array(ids)[run] for column in np.array(rows).T for run in _runs(column)]
    wanted = {int(id) for run in runs for id in run}
    signed = {p.id: sign(p, found) for p in passages() if p.id in wanted and (found := signature(p.text)) is not None}
    return frozenset(id for run in runs for id in repeats_among([signed[int(i)] for i in run], threshold))


def _runs(values: np.ndarray) -> Sequence[np.ndarray]:
    """Return, for each value that occurs more than once, the positions at which it occurs."""
    order = np.argsort(values, kind="stable")
    borders = np.flatnonzero(np.diff(values[order])) + 1
    return [run for run in np.split(order, borders) if len(run) > 1]
