"""Episodes with several tools: their tags, their turns, and what a visit is told of earlier searches."""

import jax
import numpy as np
import pytest

from masksearch_jax.retrieval.interface import Hit
from masksearch_jax.rollout.engine import RolloutConfig
from masksearch_jax.rollout.episode import Done, Ending, Episode, EpisodeLimits, Extend, Search
from masksearch_jax.rollout.trajectory import StopReason, Trajectory
from masksearch_jax.text import prompt, stop_automaton, tags

TOOLS = ("search", "visit", "calc")
KARN = Hit(3, 1, "Karn", "born in <visit>Tolmar</visit>", 1.0)


def test_a_turn_ends_at_the_closing_tag_of_each_tool(world):
    table = stop_automaton.build_table(world.tokenizer, closing=tags.closing_tags(TOOLS))
    for text, ends in (("<visit> Karn</visit>", True), ("<calc> 1</calc>", True), ("<other> x</other>", False)):
        state = stop_automaton.START
        for id in world.tokenizer.encode(text):
            state = int(table.follow(state, id))
        assert (state == table.stopped) is ends
    assert tags.closing_tags() == tags.CLOSING and tags.all_tags() == tags.ALL


def test_turns_name_their_tools(world):
    limits = EpisodeLimits(turns=4, turn_tokens=40, observation_tokens=60, total_tokens=300)
    episode = Episode(10, limits, world.tokenizer, tools=TOOLS)

    def write(text):
        return episode.end_turn(world.tokenizer.encode(text), Ending.STOP)

    assert write("<search> Karn</search>") == Search("Karn")
    following = episode.observe([KARN])
    # Tags of every tool are text in what is read.
    assert world.tokenizer.decode(following.ids) == "<information> Karn: born in (visit)Tolmar(/visit)</information>"
    assert write("<think> the city</think><visit> Karn</visit>") == Search("Karn", "visit", (KARN,))
    assert isinstance(episode.observe([Hit(4, 1, "Karn", "in the river", 1.0)]), Extend)
    assert isinstance(write("<search> a</search><visit> b</visit>"), Search)  # the first closing tag ends a turn
    episode.observe([])
    assert write("<visit> Karn</visit>") == Done(StopReason.TURNS)  # the last turn has to answer
    assert [turn.action for turn in episode.turns] == ["search", "visit", "search", "visit"]
    assert [turn.hits for turn in episode.turns] == [(3,), (4,), (), ()]
    assert [turn.error for turn in episode.turns][-1] == "not executed"
    arrays = {name: [] for name in ("ids", "trainable", "logprobs", "versions")}
    one = Trajectory("t", 0, 0, prompt_length=0, turns=tuple(episode.turns), stop=StopReason.TURNS, answer="", **arrays)
    assert one.searches == 2 and one.calls == {"search": 2, "visit": 1}


def test_without_a_tool_its_tags_are_text():
    assert prompt.parse_turn("<visit> x</visit>").error == "one search or answer expected"
    assert prompt.parse_turn("<visit> x</visit>", TOOLS) == prompt.Action("visit", "x")
    assert prompt.parse_turn("<visit> x</search>", TOOLS).error == "one search, visit, calc or answer expected"
    assert prompt.parse_turn("<answer> <visit></answer>", TOOLS).kind == "invalid"
    assert prompt.parse_turn("<answer> <visit></answer>") == prompt.Action("answer", "<visit>")
    assert tags.neutralise("</visit><search>") == "</visit>(search)"
    assert tags.neutralise("</visit><search>", TOOLS) == "(/visit)(search)"


@pytest.mark.parametrize("names", [("search", "answer"), ("search", "Visit"), ("search", "a b"), ("search", "search")])
def test_names_that_cannot_be_tags(names):
    with pytest.raises(ValueError, match="cannot name a tool"):
        RolloutConfig(tools=names)


def test_an_engine_whose_policy_never_calls_the_second_tool_writes_what_it_wrote_without_it(world):
    # Every turn is a search or an answer, or ends at its limit: corrections name the tools, so none may differ.
    rows = {
        "*": {"<search>": 1.0}, "<search>": {"q": 1.0}, "q": {"q": 0.4, "</search>": 0.6}, "<answer>": {"a": 1.0},
        "a": {"a": 0.4, "</answer>": 0.6}, "</information>": {"<search>": 0.6, "<answer>": 0.4},
    }  # fmt: skip
    params, requests, runs = world.params(rows), world.requests(3, samples=2), []
    for tools in (("search",), ("search", "visit")):
        engine = world.engine(tools=tools)
        with jax.set_mesh(engine.mesh):
            runs.append(engine.run(params, requests, version=0, seed=5))
    assert any(one.searches for one in runs[0])
    for one, other in zip(*runs, strict=True):
        np.testing.assert_array_equal(one.ids, other.ids)
        np.testing.assert_array_equal(one.logprobs, other.logprobs)
        assert (one.turns, one.stop, one.answer) == (other.turns, other.stop, other.answer)
