"""Numbers, times and dates compared as such: vectors of tokens, of equal answers, and of answers that differ."""

import re
import unicodedata

import pytest
from fuzzing import assert_grows_like_n_log_n, fuzz
from hypothesis import strategies as st

from masksearch_jax.scoring import answer_metrics

TOKENS = [
    # decimals
    ("3.5", "3.5"),
    ("3.50", "3.5"),
    (".5", "0.5"),
    ("-.5", "-0.5"),
    ("5.0", "5"),
    ("٣٫٥", "3.5"),
    ("३.५", "3.5"),
    ("３．５", "3.5"),
    ("It was 1990.", "it was 1990"),
    ("p.5, No. 7", "p5 no 7"),
    # thousands
    ("1,234", "1234"),
    ("1,234,567.89", "1234567.89"),
    ("12,34,567", "1234567"),
    ("1'234", "1234"),
    ("1\u2009234\u2009567", "1234567"),
    ("1,2", "1 2"),
    ("2015,2016", "2015 2016"),
    ("1,2345", "1 2345"),
    ("Oslo,1,234", "oslo1234"),
    # signs
    ("-5", "-5"),
    ("−5", "-5"),
    ("–5", "-5"),
    ("－5", "-5"),
    ("(−5)", "-5"),
    ("“-5”", "-5"),
    ("+5", "5"),
    ("-0", "0"),
    ("−40 °C", "-40 °c"),
    ("between −5 and 5", "between -5 and 5"),
    ("−3.5-metre", "-3.5metre"),
    # currencies and per cent, as SQuAD has them
    ("$5", "5"),
    ("-$5", "-5"),
    ("$-5", "-5"),
    ("£5", "£5"),
    ("−£5", "£-5"),
    ("5%", "5"),
    ("$1.5 million", "1.5 million"),
    # ranges, scores, fractions: two numbers
    ("1990–1995", "1990 1995"),
    ("1990-1995", "1990 1995"),
    ("1990 – 1995", "1990 1995"),
    ("1990 –1995", "1990 1995"),
    ("1990/91", "1990 91"),
    ("50%–60%", "50 60"),
    ("$5–$10", "5 10"),
    ("−5–10", "-5 10"),
    ("2–1", "2 1"),
    ("1/2", "1 2"),
    ("½", "1 2"),
    ("1½", "1 1 2"),
    # times
    ("20:15", "20:15"),
    ("08:05", "8:05"),
    ("00:05", "0:05"),
    ("20:15.", "20:15"),
    ("8:15pm", "8:15pm"),
    ("1:23.45", "1:23.45"),
    # dates
    ("2015-03-04", "4 march 2015"),
    ("4 March 2015", "4 march 2015"),
    ("March 4, 2015", "march 4 2015"),
    ("2015-13-04", "2015 13 04"),
    ("4.3.2015", "4.3.2015"),
    ("3rd century, 1990s, 1990's", "3rd century 1990s 1990s"),
    # powers and operators
    ("5×10⁶", "5 × 10^6"),
    ("5 × 10^6", "5 × 10^6"),
    ("10⁻⁶", "10^-6"),
    ("6.2415±0.0001×10¹⁸ C", "6.2415 ± 0.0001 × 10^18 c"),
    # words with digits, as SQuAD has them
    ("COVID-19", "covid19"),
    ("B-52", "b52"),
    ("30-year", "30year"),
    ("3.5km", "3.5km"),
    ("km² and km2", "km2 and km2"),
    ("version 1.2.3", "version 1.2.3"),
    ("the 7 of a kind", "7 of kind"),
    ("m·s⁻¹", "ms1"),
]


@pytest.mark.parametrize("text, expected", TOKENS)
def test_tokens(text, expected):
    assert " ".join(answer_metrics.tokens(text)) == expected


DIFFERENT = [
    ("35", "3.5"),
    ("5", "-5"),
    ("5", "−5"),
    ("2015", "20:15"),
    ("12", "1/2"),
    ("12", "½"),
    ("1234", "12.34"),
    ("19901995", "1990–1995"),
    ("20150304", "2015-03-04"),
    ("106", "10⁶"),
    ("35km", "3.5km"),
    ("123", "1.2.3"),
    ("12", "1,2"),
    ("33", "3½"),
]


@pytest.mark.parametrize("pred, gold", DIFFERENT)
def test_numbers_that_differ_share_nothing(pred, gold):
    for one, other in ((pred, gold), (gold, pred)):
        for score in (answer_metrics.token_recall, answer_metrics.f1, answer_metrics.exact_match):
            assert score(one, [other]) == 0.0
        assert not answer_metrics.contains(f"It is {one} there.", [other])


EQUAL = [
    ("-5", "−5"),
    ("−5", "–5"),
    ("1234", "1,234"),
    ("1,234.50", "1234.5"),
    ("1990-1995", "1990–1995"),
    ("2015-03-04", "4 March 2015"),
    ("8:05", "08:05"),
    ("about 3.5", "About 3.50."),
]


@pytest.mark.parametrize("pred, gold", EQUAL)
def test_one_number_written_in_two_ways_is_right(pred, gold):
    for one, other in ((pred, gold), (gold, pred)):
        for score in (answer_metrics.token_recall, answer_metrics.f1, answer_metrics.exact_match):
            assert score(one, [other]) == 1.0
        assert answer_metrics.contains(f"It is {one}, there.", [other])


def test_partial_credit_is_by_tokens_as_before():
    assert answer_metrics.token_recall("March 2015", ["2015-03-04"]) == pytest.approx(2 / 3)
    assert answer_metrics.token_recall("1990", ["1990–1995"]) == 0.5
    assert answer_metrics.token_recall("3.5 kilometres", ["35 kilometres"]) == 0.5
    assert answer_metrics.recall_with_length_penalty("1,234 or 1,235", ["1234"], 1.0) == pytest.approx(1 / 3)


# Marks that only stand in words, or that numbers do not give a meaning to.
PLAIN = st.text(st.sampled_from("abc the AN é ß ñ 中 's!?()[]\"&%*_#@ \n"), max_size=40)


@fuzz(PLAIN)
def test_words_are_those_of_squad(text):
    assert answer_metrics.tokens(text) == answer_metrics.normalize(text).split()


@fuzz(st.lists(st.from_regex(r"[a-z]{0,3}[0-9]{1,6}[a-z]{0,3}|[a-z]{1,6}", fullmatch=True), max_size=8))
def test_plain_numbers_among_words_are_those_of_squad(words):
    text = " ".join(words)
    assert answer_metrics.tokens(text) == answer_metrics.normalize(text).split()


HOSTILE = st.text(st.sampled_from("0123456789.,:/^-−–±×$£ '½⁵⁻٣٫٬\u2009\u0301aé中"), max_size=60) | st.text(max_size=60)


@fuzz(HOSTILE)
def test_any_text_has_tokens_that_are_their_own_tokens(text):
    tokens = answer_metrics.tokens(text)
    assert all(token and not re.search(r"\s", token) for token in tokens)
    assert bool(tokens) == bool(unicodedata.normalize("NFKC", text).strip())


PIECES = ["1", "1,234,", "1.", "1:", "–5", "×", "1 ", "1⁵", ".5", "2015-03-04"]


@pytest.mark.parametrize("piece", PIECES)
def test_cost_grows_with_the_text(piece):
    assert_grows_like_n_log_n(answer_metrics.tokens, lambda n: piece * (n // len(piece)), largest=100_000)
