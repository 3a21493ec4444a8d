"""Tool warm-up tasks: what they ask for stands where they say, and nothing held out is in a training task."""

import json
import re

import pytest

from masksearch_jax.data import records
from masksearch_jax.prep.tasks import tool_warmup

TEXTS = {
    "Karn Velith": "He was born in Ostrom Dorvan on 5 May 1723. He died young.",
    "Ostrom Dorvan": "This is the birthplace of Karn Velith, a city that was founded in 1402.",
    "Tiny": "Tiny.",
    "Letters": "a a a a a a",  # nothing to quote
    "The Long River": "Brad Keshan wrote The Long River in 1801 and never came back.",
}


def passages(*splits):
    splits = splits or ("train",) * len(TEXTS)
    pairs = enumerate(zip(TEXTS.items(), splits, strict=True))
    return [records.Passage(i, i, title, text, split) for i, ((title, text), split) in pairs]


def steps(fields):
    """(title, query, cue, answer) of each article that a task asks for."""
    details = json.loads(fields["extra"])["details"]
    columns = (details[name].split("\n") for name in ("queries", "cues"))
    return list(zip(fields["supporting"], *columns, fields["answers"], strict=True))


def drawn(*splits):
    return [fields for seed in range(20) for fields in tool_warmup.warmup_tasks(passages(*splits), seed)]


def test_a_task_asks_for_what_follows_its_cue_or_for_the_title():
    for fields in drawn():
        *_, (title, query, cue, answer) = steps(fields)
        kind = fields["id"].partition(".")[2]
        assert cue in fields["question"] and TEXTS[title].count(cue) == 1
        follows = TEXTS[title].split(cue)[1].lstrip()
        if kind == "source":
            words = query.removesuffix(f" {cue}")
            assert answer == title and follows.startswith(words) and words in fields["question"]
        else:
            assert follows.startswith(answer) and query == f"{title} {cue}"
            assert title in fields["question"]
    expected = {f"{passage}.{kind}" for passage in (0, 1, 4) for kind in tool_warmup.KINDS}
    assert {fields["id"] for fields in drawn()} == expected


def test_it_comes_in_many_wordings_and_sometimes_after_another_sentence():
    said = [fields["question"] for fields in drawn()]
    assert len({re.sub("|".join(TEXTS), "T", one) for one in said}) > 60
    assert any(one.startswith("This is the birthplace") for one in said)


def test_no_request_gives_its_answer_away():
    for fields in drawn():
        assert fields["answers"][-1] not in fields["question"]


def test_it_is_drawn_by_seed_passage_and_kind_alone():
    every = {fields["id"]: fields for fields in tool_warmup.warmup_tasks(passages(), seed=3)}
    assert list(tool_warmup.warmup_tasks(passages()[1:], seed=3))[-1] == every["4.source"]
    assert any(every[f["id"]] != f for seed in range(5) for f in tool_warmup.warmup_tasks(passages(), seed=seed))


def test_two_articles_of_a_task_are_of_one_split():
    split = dict(zip(TEXTS, ("test", "train", "train", "train", "train"), strict=True))
    made = drawn(*split.values())
    for fields in made:
        assert {split[title] for title in fields["supporting"]} == {fields["split"]}
    assert any(len(fields["answers"]) == 2 for fields in made)


@pytest.mark.parametrize("title, text", [("T", "He wrote Karn; Velith Dor."), ("A; B", "He wrote Karn Velith once.")])
def test_no_answer_holds_a_separator(title, text):
    for seed in range(20):
        for fields in tool_warmup.warmup_tasks([records.Passage(0, 0, title, text, "train")], seed):
            assert all(";" not in answer for answer in fields["answers"])
