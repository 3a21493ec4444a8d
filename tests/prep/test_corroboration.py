"""Masks of what a second passage states: counted as answers are compared, over what a split's search may find."""

import pytest

from masksearch_jax.data import records
from masksearch_jax.prep.spans import corroboration
from masksearch_jax.prep.spans.candidates import Span
from masksearch_jax.workflows import data_preparation


def passage(id, title, text, split="train"):
    return records.Passage(id, id, title, text, split)


PASSAGES = [
    passage(0, "Karn (poet)", "He was born in Ostrom Dorvan in 1723, in the Blue House."),
    passage(1, "Ostrom Dorvan", "A city with a blue house, where Karn was born."),
    passage(2, "Lint", "Lint was born in 1723 near Dorvan Bridge.", "validation"),
    passage(3, "Meer", "Meer was born in the Blue House near Lint, by Dorvan Bridge.", "test"),
    passage(4, "Meer Street", "A street of 1723 that was named after Old Tolm."),
    passage(5, "Hill", "A hill where Old Tolm lived."),
]


def test_passages_that_state_words_are_noted_by_split_with_titles_and_without_case_and_articles():
    wanted = {("ostrom", "dorvan"), ("blue", "house"), ("1723",), ("lint",), ("dorvan", "ostrom")}
    found = {" ".join(words): dict(splits) for words, splits in corroboration.holders(PASSAGES, wanted).items()}
    assert found == {
        "ostrom dorvan": {"train": {0, 1}}, "blue house": {"train": {0, 1}, "test": {3}},
        "1723": {"train": {0, 4}, "validation": {2}}, "lint": {"validation": {2}, "test": {3}},
    }  # fmt: skip


def passing(tmp_path, monkeypatch, asked):
    """(title, words) of the spans that pass, among all places of the words."""
    linked = [(one, [], [], []) for one in PASSAGES]
    monkeypatch.setattr(corroboration.annotated_passages, "with_links", lambda folder: iter(linked))
    monkeypatch.setattr(corroboration.annotated_passages, "old", lambda folder: iter(PASSAGES))

    def finder(text, *about):
        return [Span(at, at + len(words), "name") for words in asked if (at := text.find(words)) >= 0]

    stands = corroboration.tester(tmp_path, finder)
    return {(one.title, one.text[s.start : s.end]) for one in PASSAGES for s in finder(one.text) if stands(one, s)}


def test_a_span_passes_where_another_passage_of_its_index_states_it_with_a_clue(tmp_path, monkeypatch):
    # Karn's passage and the city's show each other's names. Karn's 1723 stands in Meer Street too, which knows nothing
    # of Karn; Meer's Blue House in two passages that know nothing of Meer.
    assert passing(tmp_path, monkeypatch, ["Ostrom Dorvan", "1723", "Blue House", "blue house", "Karn"]) == {
        ("Karn (poet)", "Ostrom Dorvan"), ("Karn (poet)", "Blue House"), ("Ostrom Dorvan", "blue house"),
        ("Ostrom Dorvan", "Karn"),
    }  # fmt: skip


def test_a_mask_is_no_clue_to_itself_and_a_name_that_stands_everywhere_is_none(tmp_path, monkeypatch):
    # Of Lint and Dorvan Bridge a test passage knows as well, which what validates may not find.
    asked = ["Dorvan Bridge", "Lint", "Old Tolm"]
    assert passing(tmp_path, monkeypatch, asked) == {("Meer", "Dorvan Bridge"), ("Meer", "Lint")}
    monkeypatch.setattr(corroboration, "RARE", 0)
    assert passing(tmp_path, monkeypatch, asked) == set()


@pytest.mark.parametrize("name, value", [("spans", "perplexity"), ("beam.runner", "DirectRunner")])
def test_it_goes_with_the_rules_in_one_process(tmp_path, name, value):
    from configs import prepare as page

    cfg = page.get_config()
    cfg.update_from_flattened_dict({"corroborated": True, name: value})
    with pytest.raises(ValueError, match="corroborated"):
        data_preparation.run(cfg, tmp_path)
    assert not (tmp_path / "data.partial").exists()
