"""Masks of what a second passage states: counted as answers are compared, over what a split's search may find."""

import pytest

from masksearch_jax import prepare
from masksearch_jax.data import records
from masksearch_jax.prep import elsewhere
from masksearch_jax.prep.spans import Span


def passage(id, title, text, split="train"):
    return records.Passage(id, id, title, text, split)


PASSAGES = [
    passage(0, "Karn", "He was born in Ostrom Dorvan in 1723, in the Blue House."),
    passage(1, "Ostrom Dorvan", "A city with a blue house."),
    passage(2, "Lint", "Lint was born in 1723.", "validation"),
    passage(3, "Meer", "Meer was born in the Blue House of Lint.", "test"),
]


def test_rows_of_words_are_counted_by_split_with_titles_and_without_case_and_articles():
    wanted = {("ostrom", "dorvan"), ("blue", "house"), ("1723",), ("lint",), ("dorvan", "ostrom")}
    found = {" ".join(words): dict(splits) for words, splits in elsewhere.count(PASSAGES, wanted).items()}
    assert found == {
        "ostrom dorvan": {"train": 2}, "blue house": {"train": 2, "test": 1},
        "1723": {"train": 1, "validation": 1}, "lint": {"validation": 1, "test": 1},
    }  # fmt: skip


def test_a_span_passes_where_a_second_passage_of_its_index_states_it(tmp_path, monkeypatch):
    linked = [(one, [], [], []) for one in PASSAGES]
    monkeypatch.setattr(elsewhere.annotated, "with_links", lambda folder: iter(linked))
    monkeypatch.setattr(elsewhere.annotated, "old", lambda folder: iter(PASSAGES))
    asked = ["Ostrom Dorvan", "1723", "Blue House", "Lint", "Karn"]

    def finder(text, *about):
        return [Span(at, at + len(words), "name") for words in asked if (at := text.find(words)) >= 0]

    stands = elsewhere.tester(tmp_path, finder)
    passed = {(one.title, one.text[s.start : s.end]) for one in PASSAGES for s in finder(one.text) if stands(one, s)}
    # 1723 stands in one training passage alone: what trains there cannot find it, what validates can.
    assert passed == {
        ("Karn", "Ostrom Dorvan"), ("Karn", "Blue House"), ("Lint", "1723"), ("Meer", "Blue House"), ("Meer", "Lint"),
    }  # fmt: skip


@pytest.mark.parametrize("name, value", [("spans", "hard"), ("beam.runner", "DirectRunner")])
def test_it_goes_with_the_rules_in_one_process(tmp_path, name, value):
    from configs import prepare as page

    cfg = page.get_config()
    cfg.update_from_flattened_dict({"elsewhere": True, name: value})
    with pytest.raises(ValueError, match="elsewhere"):
        prepare.run(cfg, tmp_path)
    assert not (tmp_path / "data.partial").exists()
