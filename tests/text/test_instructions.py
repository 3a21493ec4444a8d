"""Instructions by name: each says what a model has to know, in as few tokens as may be."""

import pytest

from masksearch_jax.text import instructions, tags


@pytest.mark.parametrize("setting", sorted(instructions.NAMED))
def test_a_default_says_the_whole_protocol(setting):
    text = instructions.text_of(setting, "default")
    for block in (tags.THINK, tags.SEARCH, tags.ANSWER):
        assert block[0] in text and block[1] in text
    assert "{" not in text and "Search before you answer" in text
    assert (tags.MASK in text) == (setting == "instruction")
    assert "; " in text or setting == "question_instruction"  # how several spans are parted


def test_short_ones_say_the_task_alone_and_other_texts_are_their_own():
    assert instructions.text_of("instruction", "short") == "Fill in each [mask]."
    assert "<" not in instructions.text_of("question_instruction", "short")
    assert instructions.text_of("system", "Be brief.") == "Be brief." and instructions.text_of("system", "") == ""


def test_a_place_is_before_or_after():
    assert instructions.around("Do it.", "before") == ("Do it.\n\n", "")
    assert instructions.around("Do it.", "after") == ("", " Do it.")
    assert instructions.around("", "before") == instructions.around("", "after") == ("", "")
    with pytest.raises(ValueError, match="instruction_place='under'"):
        instructions.around("", "under")
