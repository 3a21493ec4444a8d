"""What a teacher says of a mask: the kind of thing, and the passage's own words around it."""

import pytest

from masksearch_jax.teachers import sentence_splitting
from masksearch_jax.teachers.gaps import gap_of, noun_of

TEXT = "Karn met Dr. A. Velith in [mask]. His book, The Sea, was published by [mask] (Tolm) in [mask], and forgotten."


@pytest.mark.parametrize(
    "answer, noun",
    [
        ("1923", "year"), ("AD 69", "year"), ("300 BC", "year"), ("1939–45", "range of years"), ("1820s", "decade"),
        ("mid-1970s", "decade"), ("5th century BC", "century"), ("March 1823", "month and year"),
        ("14 March", "day and month"), ("March 14", "day and month"), ("14 March 1823", "date"),
        ("March 14, 1823", "date"),
    ],
)  # fmt: skip
def test_dates_are_told_apart(answer, noun):
    assert noun_of("date", answer) == noun


def test_numbers_take_the_unit_that_stands_next_to_the_mask():
    assert noun_of("number", "41,200", "It has ", " people in it") == "number of people"
    assert noun_of("number", "12", "for ", " years.") == "number of years"
    assert noun_of("number", "12.5", "", "% of all") == noun_of("number", "12.5%") == "percentage"
    assert noun_of("number", "$3 million") == noun_of("number", "3", "cost £") == "amount of money"
    assert noun_of("number", "12", "It ", " was right") == noun_of("number", "12", "", "-year-old") == "number"


def test_names_say_person_or_place_where_the_words_before_leave_no_doubt():
    assert noun_of("link", "Tolm", "a film directed by ") == "person"
    assert noun_of("name", "Tolm Dorvan", "She was the daughter of ") == "person"
    assert noun_of("link", "Tolm", "She was born in ") == "place"
    assert noun_of("link", "Tolm", "published by ") == "name"  # a company as well
    assert noun_of("rare", "morganatic") == "word" and noun_of("category", "action film") == "term"


def test_a_clue_holds_one_mask_and_the_words_of_its_sentence():
    gaps = [gap_of(TEXT, i, "name", "Tolm") for i in range(3)]
    assert gaps[0].clue(4) == "Dr. A. Velith in [mask]"  # neither title nor initial ends a sentence
    assert gaps[1].clue(3) == "was published by [mask] (Tolm) in"
    assert gaps[2].clue(9) == "(Tolm) in [mask], and forgotten"
    assert gap_of("[mask] was here.", 0, "name", "Tolm").clue(4) == "[mask] was here"
    assert gap_of("[mask]", 0, "name", "Tolm").clue(4) == "[mask]"
    assert gap_of("See </think> [mask].", 0, "name", "Tolm").clue(4) == "See (/think) [mask]"
    assert all(gap.clue(4) in TEXT for gap in gaps)  # word for word, so that it can be copied


def test_sentences_end_where_a_reader_would_end_them():
    text = 'Mr. Karn (b. 5 May) met J. K. Tolm in St. Vesh. He said "So." Then he left the U.S. Army! Why?'
    assert sentence_splitting.split(text) == [
        "Mr. Karn (b. 5 May) met J. K. Tolm in St. Vesh.", 'He said "So."', "Then he left the U.S. Army!", "Why?",
    ]  # fmt: skip
    assert sentence_splitting.split("") == []
    assert (
        sentence_splitting.first("One here. Two") == "One here." and sentence_splitting.last("One here. Two") == "Two"
    )
