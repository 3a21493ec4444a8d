"""A small invented corpus with known copies, and its store on disk."""

import random

import pytest

from masksearch_jax.data import records
from masksearch_jax.retrieval.passage_store import PassageStore

_SYLLABLES = ["ka", "lo", "mi", "ren", "tos", "vel", "dra", "sun", "pel", "qui", "nor", "ba"]


def _words(rng: random.Random, count: int) -> str:
    return " ".join("".join(rng.choices(_SYLLABLES, k=rng.randint(2, 3))) for _ in range(count))


@pytest.fixture(scope="session")
def corpus() -> list[records.Passage]:
    """300 passages, three to an article; 290 copies 10 word for word, 291 repeats three quarters of 10."""
    rng = random.Random(7)
    texts = [_words(rng, 40) for _ in range(300)]
    texts[290] = texts[10]
    texts[291] = " ".join(texts[10].split()[:30]) + " " + _words(rng, 10)
    return [records.Passage(i, i // 3, f"Article {_words(rng, 2)}", text, "train") for i, text in enumerate(texts)]


@pytest.fixture(scope="session")
def store(corpus, tmp_path_factory) -> PassageStore:
    path = tmp_path_factory.mktemp("store") / "passages.array_record"
    records.write(path, corpus)
    return PassageStore(path)
