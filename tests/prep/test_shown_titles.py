from masksearch_jax.prep.spans import candidates
from masksearch_jax.prep.spans.shown_titles import without_title

TEXT = "Final Exam is a 1981 American slasher film by Jimmy Huston, shot in North Carolina in 1980."


def test_what_the_title_states_is_no_candidate():
    title = "Final Exam (1981 film)"

    def texts(finder):
        return [TEXT[span.start : span.end] for span in finder(TEXT, title, [], [], [])]

    every = texts(candidates.find)
    assert "1981" in every and "1980" in every and "North Carolina" in every
    assert texts(without_title(candidates.find)) == [text for text in every if text != "1981"]
    # Words are compared, not letters: the year 198 is not in 1981.
    assert [s.kind for s in without_title(lambda *_: [candidates.Span(16, 19, "number")])(TEXT, title, [], [], [])] == [
        "number"
    ]
