"""A checkpoint as teacher: what is kept of its trajectories, and why not."""

import dataclasses
import math

import numpy as np
import pytest

from masksearch_jax.agents import distillation
from masksearch_jax.data import records
from masksearch_jax.rollout import request as request_lib
from masksearch_jax.rollout.trajectory import StopReason, Trajectory, Turn
from masksearch_jax.text import tags


def task(number: int, golds=("Karn Velith",)) -> records.Task:
    return records.Task(
        id=f"t{number}", kind="ramp", split="train", prompt=[1, 2, number + 3], targets=[], answer_form="spans",
        answers=[[gold] for gold in golds], span_kinds=["link"] * len(golds),
        text="He met " + " and ".join([tags.MASK] * len(golds)) + ".", paragraph="", title="T", passage_id=number,
        article_id=number,
    )  # fmt: skip


def trajectory(one: records.Task, sample: int, answer: str | None, queries=("velith",), invalid=False) -> Trajectory:
    turns = [Turn("search", 3, 5, "", query=query, hits=(1,), observation="o") for query in queries]
    if invalid:
        turns.insert(0, Turn("invalid", 3, 4, "", error="no"))
    if answer is not None:
        turns.append(Turn("answer", 5, 7, tags.block(tags.ANSWER, answer)))
    ids = np.array([*one.prompt, 10 + sample, 20, 30], np.int32)
    return Trajectory(
        task_id=one.id, group=0, sample=sample, ids=ids, trainable=np.array([0, 0, 0, 1, 0, 1], bool),
        logprobs=np.zeros(6, np.float32), versions=np.zeros(6, np.int32), prompt_length=3, turns=tuple(turns),
        stop=StopReason.ANSWER if answer is not None else StopReason.TURNS, answer=answer or "",
    )  # fmt: skip


class Scripted:
    """An engine that returns what it was told, in the order of the requests."""

    def __init__(self, trajectories):
        self.trajectories, self.requests = trajectories, []

    def run(self, params, requests, version, seed):
        self.requests += requests
        return self.trajectories


CFG = distillation.DistillConfig(samples=4, keep=2, recall=1.0, round=3, seed=0)


@pytest.mark.parametrize(
    "made, reason, recall",
    [
        (dict(answer="Karn Velith"), "", 1.0),
        (dict(answer="karn velith!"), "", 1.0),
        (dict(answer="Karn Dorvan"), "wrong", 0.5),
        (dict(answer=None), "form", 0.0),
        (dict(answer="Karn Velith; Karn"), "form", 0.0),  # two spans for one mask
        (dict(answer="Karn Velith", invalid=True), "form", 0.0),
        (dict(answer="Karn Velith", queries=()), "unsearched", 1.0),
    ],
)
def test_what_is_rejected_and_why(made, reason, recall):
    assert distillation.judged([(task(0), trajectory(task(0), 0, **made))], 1.0) == [(reason, recall)]


def test_a_lower_floor_and_a_judge_decide_otherwise():
    made = [(task(0), trajectory(task(0), 0, answer)) for answer in ("Karn Dorvan", "Karn Velith", "nobody", None)]
    assert [reason for reason, _ in distillation.judged(made, 0.5)] == ["", "", "wrong", "form"]
    asked = []

    def judge(batch):
        asked.extend(batch)
        return [{"Karn Dorvan": 1.0, "Karn Velith": 0.0}.get(given[0], math.nan) for _, given, _ in batch]

    assert distillation.judged(made, 1.0, judge) == [("", 0.5), ("wrong", 1.0), ("unjudged", 0.0), ("form", 0.0)]
    assert asked == [(task(0).text, [given], [["Karn Velith"]]) for given in ("Karn Dorvan", "Karn Velith", "nobody")]


def test_repeats_and_surplus_are_counted_and_tokens_kept_as_written():
    one, two = task(0), task(1)
    engine = Scripted([
        trajectory(one, 0, "Karn Velith"),
        trajectory(one, 1, "karn velith", queries=("Velith",)),  # the same search and answer
        trajectory(one, 2, "Karn Velith", queries=("velith", "karn")),
        trajectory(one, 3, "Karn Velith", queries=("karn",)),
        *(trajectory(two, sample, "nobody") for sample in range(4)),
    ])  # fmt: skip
    found = distillation.harvest(engine, None, [one, two], CFG, 0)
    assert found.outcomes == {"accepted": 2, "duplicate": 1, "surplus": 1, "wrong": 4}
    assert found.solved == 1 and found.queries == {"velith": 2, "karn": 1}
    assert [d.id for d in found.demonstrations] == ["round_3.t0.0", "round_3.t0.2"]
    first = found.demonstrations[0]
    assert first.ids == [1, 2, 3, 10, 20, 30] and first.trainable == [0, 0, 0, 1, 0, 1]
    assert (first.searches, first.recall, first.masks) == (1, 1.0, 1)


def test_no_chunk_task_or_round_draws_with_the_random_bits_of_another():
    """The same prompt again, in a later chunk, as another task and in another round."""
    same = task(0)
    as_tasks = [same, dataclasses.replace(same, answers=[["a"], ["b"]]), dataclasses.replace(same, kind="qa")]
    engine = Scripted([trajectory(same, sample % 4, None) for sample in range(8)])
    for one in as_tasks:
        for first in (0, 2, 4):
            distillation.harvest(engine, None, [one, one], CFG, first)
    distillation.harvest(engine, None, [same, same], dataclasses.replace(CFG, round=4), 0)
    streams = {tuple(request_lib.sampling_key(CFG.seed, request.key)) for request in engine.requests}
    assert len(streams) == len(engine.requests) == 3 * 3 * 8 + 8
    again = Scripted(engine.trajectories)
    distillation.harvest(again, None, [same, same], CFG, 2)  # and a run that goes on draws what it drew
    assert [r.key for r in again.requests] == [r.key for r in engine.requests[8:16]]


def test_what_an_earlier_round_holds_is_not_added_again():
    found = distillation.harvest(Scripted([trajectory(task(0), 0, "Karn Velith")] * 4), None, [task(0)], CFG, 0)
    seen = set()
    assert len(list(distillation.distinct(seen, found.demonstrations))) == 1
    assert not list(distillation.distinct(seen, found.demonstrations))


@pytest.mark.parametrize("wrong", [dict(samples=2, keep=3), dict(keep=0), dict(recall=0.0), dict(recall=1.5)])
def test_settings_that_cannot_work_are_refused(wrong):
    with pytest.raises(ValueError, match="keep|recall"):
        distillation.DistillConfig(**{**vars(CFG), **wrong})
