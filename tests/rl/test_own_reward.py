"""A reward function of the user's own: its parts, their weights, and what goes wrong in it."""

import math

import numpy as np
import pytest

from masksearch_jax.rl import own_reward, rewards
from masksearch_jax.rollout.trajectory import StopReason, Trajectory, Turn
from masksearch_jax.trainers import rollout_batch


class Task:
    id, kind, text, title, answer_form, details = "7.0.1", "ramp", "born in [mask]", "Karn", "spans", {}
    answers = [["Tolmar"]]


def trajectory(answer="Tolmar"):
    turns = (Turn("search", 2, 3, "", query="Karn"), Turn("visit", 3, 4, "", query="Karn"), Turn("answer", 4, 5, ""))
    blank = np.zeros(5)
    return Trajectory("7.0.1", 4, 2, blank, blank > 0, blank, blank, 2, turns, StopReason.ANSWER, answer)


def own(score, **weights):
    return own_reward.OwnReward(score, "mine.py:score", "abc", weights)


GIVEN = rewards.Reward(format=1.0, answer=0.5, length=-0.25, score=0.6, total=0.35)


def test_parts_are_added_by_their_weights():
    seen = []

    def score(task, one, spans):
        seen.append((task.id, one.calls, spans))
        return {"brevity": 0.5, "calls": sum(one.calls.values())}

    found = own(score, calls=0.25).add(GIVEN, Task, trajectory())
    assert seen == [("7.0.1", {"search": 1, "visit": 1}, ["Tolmar"])]
    assert found.parts == {"brevity": 0.5, "calls": 2.0}
    assert (found.score, found.total) == (0.6 + 0.5 + 0.5, 0.35 + 0.5 + 0.5)
    assert (found.format, found.answer, found.length) == (1.0, 0.5, -0.25)


def test_an_answer_without_the_form_gives_no_spans():
    found = own(lambda task, one, spans: {"missing": spans is None}).add(GIVEN, Task, trajectory("a; b"))
    assert found.parts == {"missing": 1.0}


def test_an_exception_names_the_episode():
    def score(task, one, spans):
        raise KeyError("city")

    message = r"mine.py:score raised KeyError: 'city', at the episode of task 7.0.1, sample 2 of group 4 \(answer 'Tol"
    with pytest.raises(own_reward.OwnRewardError, match=message):
        own(score).add(GIVEN, Task, trajectory())


@pytest.mark.parametrize("returned", [None, 1.0, {"a": math.nan}, {"a": "x"}, {1: 1.0}, {"A b": 1.0}, {"a": None}])
def test_what_is_no_reward_is_refused(returned):
    with pytest.raises(own_reward.OwnRewardError, match="has to be a dict of finite numbers"):
        own(lambda *_: returned).add(GIVEN, Task, trajectory())


def test_a_weight_without_its_part_is_refused():
    message = r"a weight for 'brev', and dapo.reward.file=mine.py:score returned {'brevity': 0.5}, at the episode of"
    with pytest.raises(own_reward.OwnRewardError, match=message):
        own(lambda task, one, spans: {"brevity": 0.5}, brev=0.2).add(GIVEN, Task, trajectory())


def test_weights():
    assert own_reward.read_weights(("brevity=0.5", "calls=-1")) == {"brevity": 0.5, "calls": -1.0}
    for bad in ("brevity", "=1", "brevity=much", "brevity=inf", "Brevity=1"):
        with pytest.raises(ValueError, match="has to be part=weight"):
            own_reward.read_weights((bad,))
    with pytest.raises(ValueError, match="each part once"):
        own_reward.read_weights(("a=1", "a=2"))


def test_processes_compare_what_their_functions_return(monkeypatch):
    class Drawn(Task):
        task_name = "ramp_1"

    told = []
    monkeypatch.setattr(rollout_batch.distributed, "same", lambda what, facts: told.append((what, facts)))
    for value in (0.5, 0.5, 0.25):
        function = own(lambda task, one, spans, value=value: {"a": value})
        rollout_batch._groups({4: Drawn()}, [trajectory()], 1, rewards.RewardConfig(), 0, None, function)
    first, again, other = told
    assert first == again != other and first[0] == "what dapo.reward.file=mine.py:score returns"
