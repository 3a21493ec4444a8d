"""Official records are a user's files: whatever stands in them, they are read in linear time."""

import re

from fuzzing import assert_grows_like_n_log_n, fuzz
from hypothesis import strategies as st

from masksearch_jax.agents import masksearch_format
from masksearch_jax.text import tags

PIECES = st.lists(st.sampled_from(["a", "b", "ab ", tags.MASK, "\n", "."]), max_size=9).map("".join)


def by_pattern(text, answer):
    """The definition: the most masks for which the literals before them stand in the answer, one after the other."""
    for count in range(text.count(tags.MASK), 0, -1):
        *before, _ = text.split(tags.MASK, count)
        if re.match(".+?".join(map(re.escape, before)), answer, re.DOTALL):
            return count
    return text.count(tags.MASK)


@fuzz(PIECES, PIECES, examples=300)
def test_masks_are_counted_as_defined(text, answer):
    assert masksearch_format.blanks(text, answer) == by_pattern(text, answer)


def test_masks_of_a_repeated_literal_are_counted_in_linear_time():
    """A pattern with a wildcard for each of nine masks took minutes for 100 characters."""
    text = f"a{tags.MASK}" * 40 + f"b{tags.MASK}"
    assert masksearch_format.blanks(text, "a" * 100) == 40
    assert_grows_like_n_log_n(lambda size: masksearch_format.blanks(text, "a" * size), int, 60_000)
    assert_grows_like_n_log_n(lambda size: masksearch_format.blanks(f"a{tags.MASK}" * size, "ax" * size), int, 60_000)


def test_a_turn_without_an_end_is_refused_in_linear_time():
    def read(size):
        text = "<think>" + "</think><answer>" * (size // 16) + "</answer> x"
        try:
            masksearch_format._turn(["assistant", text], 0, tags.ANSWER)
        except masksearch_format.RecordError as error:
            return str(error)
        raise AssertionError("the turn ends with no </answer>")

    assert "is no <answer> turn" in read(64)
    assert_grows_like_n_log_n(read, int, 400_000)
    assert masksearch_format._turn(["assistant", "<think>a</think>\n<answer> b </answer>\n"], 0, tags.ANSWER) == (
        "a",
        "b",
    )
