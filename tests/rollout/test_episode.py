import pytest

from masksearch_jax.retrieval.interface import Hit
from masksearch_jax.rollout.episode import Done, Ending, Episode, EpisodeLimits, Extend, Search
from masksearch_jax.rollout.trajectory import StopReason

PROMPT = 10


@pytest.fixture
def start(world):
    """Returns (episode, write): write(text, ending) ends a turn with that text."""

    def make(forced_search=None, **limits):
        limits = {"turns": 3, "turn_tokens": 20, "observation_tokens": 20, "total_tokens": 100} | limits
        episode = Episode(PROMPT, EpisodeLimits(**limits), world.tokenizer, forced_search)

        def write(text, ending=Ending.STOP):
            return episode.end_turn(world.tokenizer.encode(text), ending)

        return episode, write

    return make


def hits(n=1, text="born in the city"):
    return [Hit(40 + i, 4, "Karn", text, 1.0) for i in range(n)]


def test_search_observation_answer(start, world):
    episode, write = start()
    assert episode.budget == 20
    assert write("<think> the city</think><search> Karn city</search>") == Search("Karn city")
    following = episode.observe(hits())
    assert isinstance(following, Extend)
    assert world.tokenizer.decode(following.ids) == "<information> Karn: born in the city</information>"
    assert write("<answer> Tolmar</answer>") == Done(StopReason.ANSWER)
    search, answer = episode.turns
    assert (search.action, search.query, search.hits) == ("search", "Karn city", (40,))
    assert search.start == PROMPT and answer.start == search.end + len(following.ids)
    assert episode.length == answer.end and episode.answer == "Tolmar"


def test_the_budget_is_the_smaller_limit(start):
    assert start(turn_tokens=5)[0].budget == 5
    assert start(total_tokens=14)[0].budget == 4


def test_an_invalid_turn_is_corrected_until_turns_run_out(start, world):
    episode, write = start(turns=2)
    following = write("in the city</answer>")
    assert world.tokenizer.decode(following.ids).startswith("<information> invalid:")
    assert episode.turns[0].observation == world.tokenizer.decode(following.ids)
    assert write("<search> </search>") == Done(StopReason.TURNS)
    assert [turn.action for turn in episode.turns] == ["invalid", "invalid"]
    assert episode.turns[1].error == "empty search" and episode.turns[1].observation == ""


def test_a_search_on_the_last_turn_is_not_executed(start):
    episode, write = start(turns=1)
    assert write("<search> Karn</search>") == Done(StopReason.TURNS)
    assert episode.turns[0].action == "search" and episode.turns[0].error == "not executed"


def test_a_turn_without_closing_tag_is_invalid(start):
    """Even if its text would parse: only the token that stops a turn makes an action."""
    episode, write = start(turns=2)
    assert isinstance(write("<search> Karn", Ending.LIMIT), Extend)
    assert episode.turns[0].error == "no closing tag"
    assert write("<answer> Karn", Ending.LIMIT) == Done(StopReason.TURN_TOKENS)


def test_eos_ends_the_episode(start):
    episode, write = start()
    assert write("<answer> Karn", Ending.EOS) == Done(StopReason.EOS)
    assert episode.turns[0].action == "invalid" and episode.answer == ""


def test_an_observation_that_does_not_fit_is_not_appended(start, world):
    text = "<search> Karn</search>"
    needed = PROMPT + len(world.tokenizer.encode(text)) + 8
    assert len(world.tokenizer.encode("<information> Karn: born in the city</information>")) == 8
    for total, fits in ((needed, False), (needed + 1, True)):
        episode, write = start(total_tokens=total)
        assert write(text) == Search("Karn")
        following = episode.observe(hits())
        assert isinstance(following, Extend) == fits
        if not fits:
            assert following == Done(StopReason.TOTAL_TOKENS)
            assert episode.turns[0].hits == (40,) and episode.turns[0].observation == ""
            assert episode.length == episode.turns[0].end


def test_an_answer_with_the_last_token_counts_and_a_search_does_not(start, world):
    cases = (("<answer> Karn</answer>", StopReason.ANSWER), ("<search> Karn</search>", StopReason.TOTAL_TOKENS))
    for text, stop in cases:
        episode, write = start(total_tokens=PROMPT + len(world.tokenizer.encode(text)))
        assert write(text) == Done(stop)
    assert episode.turns[0].error == "not executed"


def test_a_forced_search_opens_the_answer(start, world):
    episode, write = start(forced_search="Karn city ")
    assert episode.forced_query == "Karn city"
    following = episode.observe(hits(2))
    text = world.tokenizer.decode(following.ids)
    assert text.startswith("<search> Karn city</search><information> Karn: born in the city Karn: born")
    assert text.endswith("</information><answer>")
    search = episode.turns[0]
    assert (search.start, search.hits, search.query) == (PROMPT, (40, 41), "Karn city")
    assert episode.length == PROMPT + len(following.ids)
    assert write(" Tolmar</answer>") == Done(StopReason.ANSWER)
    assert episode.answer == "Tolmar" and episode.turns[1].text == "<answer> Tolmar</answer>"
    assert episode.turns[1].start == PROMPT + len(following.ids) - 1


def test_a_forced_search_that_does_not_fit_leaves_no_turn(start):
    episode, _ = start(forced_search="Karn city", total_tokens=PROMPT + 8)
    assert episode.observe(hits()) == Done(StopReason.TOTAL_TOKENS)
    assert episode.turns == [] and episode.length == PROMPT


def test_cancelling_keeps_what_was_written(start, world):
    episode, write = start()
    assert episode.cancel(world.tokenizer.encode("<think> the")) == Done(StopReason.DEADLINE)
    assert episode.turns[0].text == "<think> the" and episode.length == episode.turns[0].end
    episode, write = start()
    write("<search> Karn</search>")
    assert episode.cancel([]) == Done(StopReason.DEADLINE)
    assert [(turn.action, turn.error) for turn in episode.turns] == [("search", "cancelled at the deadline")]


@pytest.mark.parametrize("field, value", [("turns", 0), ("turn_tokens", 1.5), ("deadline_steps", -1)])
def test_limits_are_checked(field, value):
    with pytest.raises(ValueError, match=f"EpisodeLimits.{field} is"):
        EpisodeLimits(**{field: value})
