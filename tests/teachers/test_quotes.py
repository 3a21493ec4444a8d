"""What a teacher quotes of an observation: the sentence that states the answer and fits what was asked for."""

from masksearch_jax.teachers import quotes

TITLES = ["Karn Velith (poet)", "Tolm"]
SHOWN = (
    "<information> Karn Velith (poet): He was in Tolm once. Karn Velith, son of Brad, was born in Tolm, a city, in "
    "1500. Tolm: It was founded by Karn Velith in 1523, and he"
)


def test_the_sentence_that_shares_most_words_with_the_question_is_quoted():
    found = quotes.find(SHOWN, TITLES, ["Tolm"], "She was born in [mask], the city of her father.")
    assert found.sentence == "Karn Velith, son of Brad, was born in Tolm, a city, in 1500."
    assert found.sentence[found.start : found.end] == "Tolm" and found.shared == 2  # born, city
    # What is cut off is quoted as far as it is shown, and the title's words count for nothing.
    cut = quotes.find(SHOWN, TITLES, ["1523"], "Karn Velith founded Tolm in [mask].", "Karn Velith")
    assert cut.sentence == "It was founded by Karn Velith in 1523, and he"
    assert cut.shared == 3  # founded, Tolm, and the name of the article in another one
    assert quotes.find(SHOWN, TITLES, ["1524"], "founded in [mask]") is None


def test_an_answer_that_is_a_title_is_quoted_with_it_and_one_in_brackets_is_not():
    shown = "<information> Karn (1981 film): It was made by Brad.</information>"
    found = quotes.find(shown, ["Karn (1981 film)"], ["Karn"], "Brad made [mask].")
    assert found.sentence == "Karn (1981 film): It was made by Brad." and found.around(20) == found.sentence
    assert quotes.find(shown, ["Karn (1981 film)"], ["1981"], "Brad made it in [mask].") is None


def test_a_long_quotation_is_cut_on_words_and_keeps_the_answer():
    long = (
        "Karn Velith, "
        + "who sang and " * 20
        + "wrote, died in Tolm in 1523, at home, after a long and quiet life there."
    )
    shown = f"<information> Karn: {long}"
    for gold in ("Velith", "Tolm", "1523", "quiet life"):
        for words in (6, 10, 20):
            cut = quotes.find(shown, ["Karn"], [gold], "died").around(words)
            assert gold in cut
            assert len(cut.split()) <= max(words, 6) and cut in long
    assert quotes.find(shown, ["Karn"], ["Tolm"], "died").around(10).endswith("died in Tolm in 1523")  # its clause
    assert quotes.find(shown, ["Karn"], ["Velith"], "died").around(10).startswith("Karn Velith, who")


def test_answers_are_found_as_they_are_compared():
    assert quotes.locate("It had 1,234 people.", ["1234"]) == (7, 12)
    assert quotes.locate("In the DORVAN house", ["Dorvan"]) == (7, 13)
    assert quotes.locate("On 1500-05-03 he", ["3 May 1500"]) == (3, 13)
    assert quotes.locate("Dorvania", ["Dorvan"]) is None


def test_passages_are_told_apart_by_their_titles_as_far_as_they_are_shown():
    assert quotes.passages(SHOWN, TITLES)[1] == ("Tolm", "It was founded by Karn Velith in 1523, and he")
    assert quotes.passages(SHOWN, [*TITLES, "Never shown"]) == quotes.passages(SHOWN, TITLES)
    assert quotes.passages("<information> no title</information>", [""]) == [("", "no title")]
    nearest = quotes.nearest(SHOWN, TITLES, "Who founded it?")
    assert nearest.sentence.startswith("It was founded")
