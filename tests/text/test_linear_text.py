"""Functions of users' and models' texts: the cost of any repeated piece grows at most like n log n."""

import unicodedata

import pytest
from fuzzing import assert_grows_like_n_log_n, fuzz
from hypothesis import strategies as st

from masksearch_jax.scoring import answer_metrics, benchmark_metrics
from masksearch_jax.text import normal_forms, prompt, shingles, stop_automaton, tags

PIECES = [
    " ", "\n", "a", "A ", "the ", "1", "1,", "1,1", "1.", "-1 ", "−", "1/", "&#", "&#9", "&amp;", "<", "</",
    "<answer>", "</answer>", "<search>a</search>", "<think>", "[mask]", "; ", "\u0301", "\u0323", "\u0301\u0323",
    "\u0f73", "\uff9e\u0301", "é", "ﬁ", "字", "_", "'", "’", "(", ")", "2015 ", "3 May 1823", "\ud800",
]  # fmt: skip
shapes = st.tuples(
    st.sampled_from(["", *PIECES]), st.lists(st.sampled_from(PIECES), min_size=1, max_size=3).map("".join)
)
CALLS = [
    answer_metrics.normalize,
    lambda text: answer_metrics.f1(text, ["a b", text]),
    lambda text: answer_metrics.contains(text, ["a b", text[:50]]),
    lambda text: answer_metrics.spans_of(text, "spans", "[mask]", 1),
    lambda text: benchmark_metrics.score("triviaqa", text, ["a"], {"a": text[:50]}),
    lambda text: benchmark_metrics.loose_accuracy(["1,234"], text),
    shingles.words,
    prompt.parse_turn,
    stop_automaton.closed_at,
    tags.neutralise,
    normal_forms.unescape,
]


@pytest.mark.parametrize("call", range(len(CALLS)))
@fuzz(shapes, examples=2)
def test_cost_grows_like_n_log_n(call, shape):
    beginning, piece = shape
    assert_grows_like_n_log_n(CALLS[call], lambda size: beginning + piece * (size // len(piece) + 1), largest=100_000)


@pytest.mark.parametrize("marks", ["\u0301\u0323", "\u0f73", "\u0344\u0323", "\uff9e\u0301"])
@pytest.mark.parametrize("form", ["NFC", "NFKD"])
def test_runs_of_combining_marks_are_put_in_order_in_linear_time(marks, form):
    """160 KB of them took 7 s."""

    def call(text):
        return normal_forms.normal_form(form, text)

    assert_grows_like_n_log_n(call, lambda size: "a" + marks * size, largest=100_000)


_MARKS = "\u0301\u0323\u0f73\u0344\u0fb7\uff9e\u302a\u05b0\u0315\U0001d165"
_characters = st.sampled_from("aé\u1100\u1161\uac01ﬁ¨字 " + _MARKS) | st.characters()


@fuzz(st.lists(_characters, max_size=120).map("".join), st.sampled_from(["NFC", "NFD", "NFKC", "NFKD"]), examples=100)
def test_normal_forms_are_those_of_unicode(text, form):
    assert normal_forms.normal_form(form, text * 3) == unicodedata.normalize(form, text * 3)


def test_references_of_any_length():
    assert normal_forms.unescape("&amp;&#65;&#0000000065;&#x41;&nbsp;&ouml") == "&AAA\xa0ö"
    assert normal_forms.unescape("a &#" + "9" * 5000 + "; b &#" + "0" * 5000 + "66;") == "a \ufffd b B"
