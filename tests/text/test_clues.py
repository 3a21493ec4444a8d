"""The words around masks, in Python and in TensorFlow."""

import random

import pytest
import tensorflow as tf

from masksearch_jax.prep.tasks import ramp
from masksearch_jax.text import clues, instructions, prompt, tags

WORDS = ["Karn", "was", "born", "[mask]", "[mask],", "([mask])", "St.", "1523.", "ö", "日本", "why?", "\n", " ", "-"]


def test_a_clue_holds_one_mask_and_ends_with_its_sentence():
    text = "T: a b c d e f g h i j k [mask] m, n o p q [mask]. Then [mask] left"
    assert clues.clues(text) == [
        '"b c d e f g h i j k [mask] m, n o p q"',
        '"m, n o p q [mask]."',
        '"Then [mask] left"',
    ]
    assert clues.clues("a [mask] b c d e f g h i j") == ['"a [mask] b c d e f g h i"']
    # What stands behind a neighbouring mask belongs to no clue.
    assert clues.leads(text) == ["b c d e f g h i j k ", "m, n o p q ", "Then "]
    assert [clues.query(text, index) for index in range(3)] == [
        "b c d e f g h i j k  m, n o p q", "m, n o p q", "Then  left",
    ]  # fmt: skip
    assert clues.query("a </search> b [mask] c", 0) == "a (/search) b  c"  # what a corpus spells ends no search
    assert clues.clues("[mask]") == ['"[mask]"'] and clues.leads("[mask]") == [""]
    assert clues.shortened("a b c d ", 0.5) == "c d " and clues.shortened("a b ", 0.2) == clues.shortened("", 1) == ""


def test_tensorflow_cuts_the_same_words():
    rng = random.Random(0)
    texts = [" ".join(rng.choices(WORDS, k=rng.randrange(1, 40))) for _ in range(400)]
    texts = [text for text in [*texts, "[mask]", "\u3000[mask]\u3000x"] if tags.MASK in text]
    found = ramp.clues_of(tf.constant(texts)).numpy()
    assert [one.decode() for one in found] == [clues.SEPARATOR.join(clues.clues(text)) for text in texts]


@pytest.mark.parametrize("place", instructions.PLACES)
def test_an_instruction_says_the_clues_of_a_passage_or_of_itself(place):
    fill = instructions.text_of("instruction", "clues")
    said = 'Fill in "Karn was born in [mask] and sang in (search)"; "and sang in (search) [mask]".'
    body = "Karn was born in [mask] and sang in (search) [mask]"
    shown = prompt.ramp_prompt("Karn was born in [mask] and sang in <search> [mask]", fill, place)
    assert shown == (f" {body} {said}" if place == "after" else f" {said}\n\n{body}")
    reply = instructions.text_of("question_instruction", "clues")
    said = 'The answer is [mask]. Fill in "Who (mask) sang? The answer is [mask]."'
    shown = prompt.question_prompt("Who [mask] sang?", reply, place)
    assert shown == (f" Who (mask) sang? {said}." if place == "after" else f" {said}.\n\nWho (mask) sang?")
