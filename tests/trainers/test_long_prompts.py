"""Tasks whose prompts leave an episode no room: left out and counted, the same ones after a resume, or refused."""

import dataclasses
import itertools
import json

import numpy as np
import pytest

from masksearch_jax.data import pipeline, records
from masksearch_jax.data.curriculum import Curriculum
from masksearch_jax.workflows import evaluation, training
from masksearch_jax.workflows.context import RunContext

ROOM = 160
CURRICULUM = Curriculum([(8, {"ramp_1": 1.0}), (None, {"ramp_1": 0.5, "ramp_2": 0.5})])


def lengthen(workdir, split, masks, chosen):
    """Makes the prompts of the tasks that `chosen` numbers too long for an episode; returns how many that are."""
    count = 0
    for path in sorted((workdir / "data" / "tasks" / split / f"ramp_{masks}").glob("*")):
        tasks = list(records.read(path, records.Task))
        for number in range(len(tasks)):
            if chosen(number):
                tasks[number] = dataclasses.replace(tasks[number], prompt=(tasks[number].prompt * ROOM)[:ROOM])
                count += 1
        records.write(path, tasks)
    return count


def only(cfg, name):
    """Evaluates one task."""
    cfg.evaluate.episodes.update(dict.fromkeys(cfg.evaluate.episodes, 0) | {name: 10})


def stream(workdir, **fields):
    return pipeline.tasks(workdir / "data" / "tasks", "train", CURRICULUM, seed=3, tokenizer_fingerprint="t", **fields)


def test_they_are_left_out_by_the_task_alone_and_the_same_after_a_resume(workdir):
    plain = [task.id for task in itertools.islice(stream(workdir, room=ROOM), 60)]
    assert plain == [task.id for task in itertools.islice(stream(workdir), 60)]  # with room for all nothing moves
    lengthen(workdir, "train", 1, lambda number: number % 3 == 0)
    every = stream(workdir)
    drawn = [next(every) for _ in range(60)]
    kept, left_out = pipeline.fitting(drawn, ROOM)
    assert 10 < left_out < 50
    tasks = stream(workdir, room=ROOM)
    found = [next(tasks) for _ in kept]
    assert [task.id for task in found] == [task.id for task in kept]
    assert tasks.left_out <= left_out
    resumed = stream(workdir, room=ROOM)
    state = stream(workdir, room=ROOM)
    for _ in range(10):
        next(state)
    resumed.set_state(state.get_state())
    assert [next(resumed).id for _ in kept[10:]] == [task.id for task in kept[10:]]
    assert state.left_out + resumed.left_out == tasks.left_out


def test_a_task_of_long_prompts_alone_is_told(workdir):
    lengthen(workdir, "train", 1, lambda number: True)
    with pytest.raises(ValueError, match="none of the 80 tasks of ramp_1 has a prompt below 160 tokens.*total_tokens"):
        for _ in itertools.islice(stream(workdir, room=ROOM), 1000):
            pass


def test_tasks_that_are_never_drawn_are_not_refused(workdir):
    lengthen(workdir, "train", 1, lambda number: number == 7)
    drawn = list(itertools.islice(stream(workdir), 400))
    every, short = {task.id for task in drawn}, {task.id for task in drawn if len(task.prompt) < ROOM}
    assert short < every
    with pytest.raises(ValueError, match="'refuse': 1 of .* tasks"):
        stream(workdir, room=ROOM, refuse=True, only=dict.fromkeys(CURRICULUM.tasks, every))
    next(stream(workdir, room=ROOM, refuse=True, only=dict.fromkeys(CURRICULUM.tasks, short)))


def test_they_are_refused_before_the_first_step_where_a_setting_says_so(cfg, workdir):
    many = lengthen(workdir, "train", 2, lambda number: number == 7)
    with pytest.raises(ValueError, match="'refuse': 1 of 40 tasks .* has 160 tokens.*long_prompts='skip'"):
        stream(workdir, room=ROOM, refuse=True)
    assert many == 2
    lengthen(workdir, "test", 1, lambda number: number < 2)
    cfg.rollout.long_prompts = "refuse"
    only(cfg, "ramp_1")
    context = RunContext(cfg, workdir)
    with pytest.raises(ValueError, match="'refuse': 2 of 10 tasks"):
        evaluation.run(context, "untrained", None)
    assert not (workdir / "evaluate").exists()


def test_dapo_and_evaluation_go_on_and_count(cfg, workdir):
    """The iteration that draws them trains on others, whose groups are named by their own place in the stream."""
    lengthen(workdir, "train", 1, lambda number: number % 2 == 0)
    lengthen(workdir, "test", 1, lambda number: number < 3)
    cfg.dapo.update({"iterations": 1, "max_generations": 1, "dynamic_sampling": False})
    cfg.dapo.curriculum = ((None, (("ramp_1", 1.0),)),)
    only(cfg, "ramp_1")
    context = RunContext(cfg, workdir)
    params = training.train_dapo(context)
    (row,) = [json.loads(line) for line in (workdir / "dapo" / "metrics.jsonl").read_text().splitlines()]
    assert row["left_out"] >= 1 and row["prompts"] == cfg.dapo.prompts + row["left_out"]
    assert np.isfinite(row["reward"])
    scores = evaluation.run(context, "dapo", context.engine("all", 1.0), params)
    assert scores["ramp_1"]["left_out"] == 3 and scores["ramp_1"]["episodes"] == 7
    kept = json.loads((workdir / "evaluate" / "dapo" / "scores.json").read_text())
    assert kept["ramp_1"]["left_out"] == 3


def test_an_evaluation_of_long_prompts_alone_is_told_before_any_work(cfg, workdir):
    lengthen(workdir, "test", 2, lambda number: True)
    only(cfg, "ramp_2")
    with pytest.raises(ValueError, match="none of the 10 tasks of ramp_2 has a prompt below episode.total_tokens=160"):
        evaluation.run(RunContext(cfg, workdir), "untrained", None)
