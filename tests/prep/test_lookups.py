"""Lookups: what they ask for stands where they say, and nothing held out is in a training lookup."""

import json
import re

import pytest

from masksearch_jax.data import records
from masksearch_jax.prep import lookups

TEXTS = [
    "Karn Velith was born in Ostrom Dorvan on 5 May 1723. He died young.",
    "Ostrom Dorvan is the birthplace of Karn Velith, a city of note.",
    "Tiny.",
    "a a a a a a",  # no cue stands once
    "Brad Keshan wrote The Long River in 1801 and never came back.",
]


def passages(*splits):
    splits = splits or ("train",) * len(TEXTS)
    pairs = enumerate(zip(TEXTS, splits, strict=True))
    return [records.Passage(i, i, f"Title {i}", text, split) for i, (text, split) in pairs]


def test_a_lookup_quotes_what_follows_its_cue():
    found = list(lookups.make(passages(), seed=3))
    assert [fields["id"] for fields in found] == ["0", "1", "4"]
    assert [len(fields["answers"]) for fields in found] == [1, 2, 1]  # the second asks for the one before as well
    by_title = {f"Title {i}": text for i, text in enumerate(TEXTS)}
    for fields in found:
        cues = json.loads(fields["extra"])["details"]["cues"].split("\n")
        assert len(cues) == len(fields["answers"]) == len(fields["supporting"])
        for cue, answer, title in zip(cues, fields["answers"], fields["supporting"], strict=True):
            assert title in fields["question"] and cue in fields["question"] and by_title[title].count(cue) == 1
            assert by_title[title].split(cue)[1].startswith(f" {answer}")
            assert 1 <= len(answer.split()) <= 3 and not answer.endswith((".", ","))


def test_it_comes_in_many_wordings_and_sometimes_after_another_sentence():
    said = [fields["question"] for seed in range(40) for fields in lookups.make(passages(), seed)]
    assert len({re.sub(r"Title \d", "T", one) for one in said}) > 30
    assert any(one.startswith("Ostrom Dorvan is the birthplace") for one in said)


def test_it_is_drawn_by_seed_and_passage_alone():
    every = {fields["id"]: fields for fields in lookups.make(passages(), seed=3)}
    assert list(lookups.make(passages()[1:], seed=3))[-1] == every["4"]
    assert any(every[f["id"]] != f for seed in range(5) for f in lookups.make(passages(), seed=seed))


def test_two_articles_of_a_lookup_are_of_one_split():
    found = list(lookups.make(passages("test", "train", "train", "train", "train"), seed=3))
    assert [fields["split"] for fields in found] == ["test", "train", "train"]
    assert [len(fields["answers"]) for fields in found] == [1, 1, 1]


@pytest.mark.parametrize("text", ["one; two three four five", "a b c; d"])
def test_no_quote_holds_a_separator(text):
    (passage,) = [records.Passage(0, 0, "T", text, "train")]
    for seed in range(20):
        for fields in lookups.make([passage], seed):
            assert all(";" not in answer for answer in fields["answers"])
