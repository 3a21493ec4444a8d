import numpy as np
import pytest

from masksearch_jax.data.records import Passage
from masksearch_jax.retrieval.index import near_duplicates


def shingles(text):
    words = text.lower().split()
    width = min(5, len(words))
    return {tuple(words[i : i + width]) for i in range(len(words) - width + 1)} if words else set()


def by_definition(passages, threshold):
    sets = [shingles(passage.text) for passage in passages]
    lists = []
    for i, a in enumerate(sets):
        shared = [len(a & b) >= max(threshold * min(len(a), len(b)), 1) for b in sets]
        lists.append([j for j, near in enumerate(shared) if near and j != i])
    return lists


def passages_of(texts):
    return [Passage(i, i, "", text, "train") for i, text in enumerate(texts)]


def lists_of(found, count):
    return [found.of(row).tolist() for row in range(count)]


def nothing(done, total):
    pass


@pytest.mark.parametrize("threshold", [0.3, 0.7, 1.0])
@pytest.mark.parametrize("at_once", [50_000_000, 7_000])
def test_equals_comparing_all_pairs(monkeypatch, corpus, threshold, at_once):
    monkeypatch.setattr(near_duplicates, "_SHINGLES_AT_ONCE", at_once)
    found = near_duplicates.find(corpus, threshold, nothing)
    assert lists_of(found, len(corpus)) == by_definition(corpus, threshold)
    assert found.of(10).tolist() == ([290] if threshold == 1 else [290, 291])


def test_mixed_sizes_and_short_texts():
    long = " ".join(f"word{i}" for i in range(60))
    texts = [long, " ".join(long.split()[20:40]), "three words only", "Three words, only!", "", "", "word1 word2"]
    found = near_duplicates.find(passages_of(texts), 0.8, nothing)
    # The short part of a long passage counts as a copy: either one gives the other away.
    assert lists_of(found, 7) == [[1], [0], [3], [2], [], [], []]
    assert found.passages == 4


def test_boilerplate_alone_makes_no_copy(monkeypatch):
    monkeypatch.setattr(near_duplicates, "_COMMON", 5)
    phrase = "this page lists people with the same name"
    texts = [f"{phrase} person{i} person{i}a person{i}b person{i}c person{i}d person{i}e" for i in range(9)]
    found = near_duplicates.find(passages_of(texts + [texts[0]]), 0.5, nothing)
    assert lists_of(found, 10) == [[9], *[[]] * 8, [0]]


def test_save_and_load(tmp_path, corpus):
    found = near_duplicates.find(corpus, 0.5, nothing)
    found.save(tmp_path / "n.npz")
    loaded = near_duplicates.NearDuplicates.load(tmp_path / "n.npz")
    np.testing.assert_array_equal(found.starts, loaded.starts)
    np.testing.assert_array_equal(found.rows, loaded.rows)
