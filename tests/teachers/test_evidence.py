"""Quotes of what leads to an answer."""

from masksearch_jax.teachers import evidence


def test_a_quote_is_of_the_words_before_the_mask_as_many_as_lead_to_the_answer_are_counted():
    shown = "He met Tolm by Tolman Bay, born by Tolm, and lived by Tolm"
    assert evidence.quote(shown, "Tolm", "Karn was born, by", 3) == ("was born, by Tolm", 2)
    assert evidence.quote(shown, "Tolm", "Karn was born, by", 1) == ("by Tolm", 1)
    assert evidence.quote(shown, "Tolm", "Karn", 3) == ("Karn Tolm", 0)
    assert evidence.quote(shown, "Tolm", "", 3) == ("Tolm", 0)
    assert evidence.quote(shown, "tolm", "by", 3) == ("", 0)
