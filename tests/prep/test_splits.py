"""Splits by file and by hash, and the split of a question."""

import json

import pytest

from masksearch_jax.evals.benchmarks import Question
from masksearch_jax.prep.splits import Splits
from masksearch_jax.prep.tasks import question_source

SHARES = {"train": 0.6, "validation": 0.1, "test": 0.3}


def test_hash_shares_and_stability():
    splits = Splits("", SHARES, seed=0)
    titles = [f"Title {i}" for i in range(4000)]
    found = [splits.of(title) for title in titles]
    for split, share in SHARES.items():
        assert abs(found.count(split) / 4000 - share) < 5 * (share * (1 - share) / 4000) ** 0.5
    assert found == [Splits("", SHARES, seed=0).of(title) for title in titles]
    assert found != [Splits("", SHARES, seed=1).of(title) for title in titles]
    assert splits.of("Title 2") == "train" and splits.of("Title 3") == "test"  # the same on every machine


def test_file(tmp_path):
    path = tmp_path / "splits.json"
    path.write_text(json.dumps({"A": "train", "B": "test"}))
    splits = Splits(path, SHARES, seed=0)
    assert [splits.of("A"), splits.of("B")] == ["train", "test"]
    with pytest.raises(ValueError, match="does not name the article 'C'"):
        splits.of("C")
    path.write_text(json.dumps({"A": "dev"}))
    with pytest.raises(ValueError, match="'A' has split 'dev'"):
        Splits(path, SHARES, seed=0)
    with pytest.raises(FileNotFoundError, match="no such file"):
        Splits(tmp_path / "none.json", SHARES, seed=0)


@pytest.mark.parametrize("shares", [{"train": 1.0}, {**SHARES, "test": 0.5}, {**SHARES, "train": 1.2, "test": -0.3}])
def test_shares_are_checked(shares):
    with pytest.raises(ValueError, match="shares="):
        Splits("", shares, seed=0)


def test_a_question_is_as_held_out_as_its_most_held_out_article(tmp_path):
    path = tmp_path / "splits.json"
    path.write_text(json.dumps({"A": "train", "B": "test", "C": "validation", "q": "train"}))
    splits = Splits(path, SHARES, seed=0)
    for titles, split in ((["A"], "train"), (["A", "C"], "validation"), (["B", "C"], "test"), (["A", "D"], "train")):
        assert question_source.split_of(Question("q", "?", ["a"], titles), splits) == split
    # Without an article of the corpus the file cannot say; the shares decide, the same way each time.
    found = {question_source.split_of(Question(f"q{i}", "?", ["a"], []), splits) for i in range(60)}
    assert found == {"train", "validation", "test"}


def test_a_question_about_a_search_only_article_is_a_test_question(tmp_path):
    path = tmp_path / "splits.json"
    path.write_text(json.dumps({"A": "train"}))
    splits = Splits(path, SHARES, seed=0)
    asked = Question("q", "?", ["a"], ["A", "Velith (Bridge)"])
    assert question_source.split_of(asked, splits, frozenset({"velith bridge"})) == "test"
    assert question_source.split_of(asked, splits) == "train"  # the other title is no article of this corpus
