"""Prompts that end in an open `<think>`: the first turn is read as a thought that is already open."""

import dataclasses

import episodes
import pytest
import tiny_published

from masksearch_jax.retrieval.interface import Hit
from masksearch_jax.rollout.trajectory import StopReason
from masksearch_jax.text import prompt, tags
from masksearch_jax.text.chat_template import open_chat_template
from masksearch_jax.text.published_tokenizer import PublishedTokenizer

HIT = Hit(1, 1, "Karn", "born in Oslo", 1.0)


@pytest.fixture(scope="module")
def tok(tmp_path_factory):
    return PublishedTokenizer(tiny_published.reasoner(tmp_path_factory.mktemp("opened") / "r1"))


@pytest.fixture(scope="module")
def asked(tok):
    """Ids of a prompt, whose text speaks of thoughts too."""
    return open_chat_template(tok, "auto", "Write <think> .. </think>.").encode(tok, "Who? Write <think> first.")


def play(tok, asked, *texts, **options):
    return episodes.play(tok, map(tok.encode, texts), lambda query: [HIT], prompt=asked, **options).trajectory


def test_what_opens_a_thought(tok, asked):
    assert prompt.opened_thought(asked, tok) == "<think>\n" and tok.decode(asked).endswith("<｜Assistant｜><think>\n")
    for text, opened in (
        (" x <think>", "<think>"), ("<think>\n\n ", "<think>\n\n "), (" <think> so", ""), ("<think>\n</think>\n", ""),
        ("", ""), ("<thin", ""), ("\n\n \n", ""),
    ):  # fmt: skip
        assert prompt.opened_thought(tok.encode(text), tok) == opened
    # A passage opens none, wherever it ends.
    assert prompt.opened_thought(tok.encode(prompt.ramp_prompt("[mask] <think>")), tok) == ""


def test_the_first_turn_goes_on_from_it(tok, asked):
    one = play(tok, asked, "the river.</think><search> Karn</search>", "<think> so</think><answer> Oslo</answer>")
    assert one.well_formed and (one.answer, one.searches, one.stop) == ("Oslo", 1, StopReason.ANSWER)
    first, second = one.turns
    assert first.text == "<think>\nthe river.</think><search> Karn</search>" and first.query == "Karn"
    assert second.text == "<think> so</think><answer> Oslo</answer>"
    # Its tokens are those that the policy wrote, and no others are trained on.
    assert first.start == len(asked) and not one.trainable[: len(asked)].any()
    assert tok.decode(one.ids[first.start : first.end]) == "the river.</think><search> Karn</search>"


def test_an_empty_thought_may_be_closed_at_once(tok, asked):
    assert play(tok, asked, "\n</think>\n\n<answer> Oslo</answer>").answer == "Oslo"


@pytest.mark.parametrize(
    "text", ["<search> Karn</search>", "<think> so</think><search> Karn</search>", "so</think> and <search> K</search>"]
)
def test_turns_that_leave_it_open_or_open_another_are_invalid(tok, asked, text):
    assert play(tok, asked, text).turns[0].action == "invalid"
    # Without it the same rules hold as ever.
    without = [*asked, *tok.encode("</think>")]
    assert play(tok, without, text).turns[0].action == ("invalid" if text.startswith("so") else "search")


def test_a_forced_search_closes_it(tok, asked):
    one = play(tok, asked, " Oslo</answer>", forced="Karn")
    assert one.answer == "Oslo" and one.well_formed and [turn.action for turn in one.turns] == ["search", "answer"]
    assert one.turns[0].text == "<think>\n</think><search> Karn</search>" and one.turns[0].start == len(asked)
    assert prompt.parse_turn(one.turns[0].text) == prompt.Action("search", "Karn")
    assert one.turns[1].text == "<answer> Oslo</answer>"


def test_an_unfinished_turn_shows_it(tok, asked):
    one = play(tok, asked, "the river")
    assert one.stop == StopReason.DEADLINE and one.turns[0].text == "<think>\nthe river"


@pytest.mark.slow  # it compiles an engine of its own
def test_the_engine_reads_it_off_the_prompt(world):
    """A policy that writes a word, closes the thought and answers; the same without the tag is invalid."""
    rows = {"*": {"q": 1.0}, "q": {"</think>": 1.0}, "</think>": {"<answer>": 1.0}, "<answer>": {"a": 1.0},
            "a": {"</answer>": 1.0}}  # fmt: skip
    params, requests = world.params(rows), world.requests(2)
    opened = dataclasses.replace(requests[0].task, prompt=[*requests[0].task.prompt, world.tokenizer.id(tags.THINK[0])])
    requests[0] = dataclasses.replace(requests[0], task=opened)
    one, other = world.engine(limits={"turns": 1}).run(params, requests, version=0, seed=0, greedy=True)
    assert one.turns[0].text.startswith("<think>") and one.well_formed and one.stop == StopReason.ANSWER
    assert other.turns[0].action == "invalid" and not other.turns[0].text.startswith("<think>")
