"""Curriculum: tasks follow the phases, and depend on (seed, index) alone."""

import collections

import pytest

from masksearch_jax.data.curriculum import Curriculum, stream_id, task_folder

ONE, TWO, FOUR = "ramp_1", "ramp_2", "ramp_4"


def test_staged():
    curriculum = Curriculum([(3, {ONE: 1.0}), (2, {TWO: 5.0}), (None, {FOUR: 1.0})])
    assert [curriculum.task(0, i) for i in range(8)] == [ONE] * 3 + [TWO] * 2 + [FOUR] * 3
    assert [curriculum.phase(i) for i in (0, 2, 3, 4, 5, 10**9)] == [0, 0, 1, 1, 2, 2]
    assert curriculum.tasks == (ONE, TWO, FOUR)


def test_each_task_has_a_stream_and_a_folder():
    names = ["ramp_1_open", "tool_warmup", "qa", ONE, FOUR, "ramp_10"]
    assert [stream_id(name) for name in names] == [-2, -1, 0, 1, 4, 10]
    assert [task_folder(name) for name in names] == ["ramp_1", *names[1:]]
    assert Curriculum([(None, dict.fromkeys(reversed(names), 1.0))]).tasks == tuple(names)


def test_last_phase_outlasts_its_examples():
    curriculum = Curriculum([(3, {ONE: 1.0}), (2, {TWO: 1.0})])
    assert curriculum.task(0, 1000) == TWO


def test_mixed_shares_follow_the_weights():
    curriculum = Curriculum([(None, {ONE: 1.0, TWO: 3.0, "ramp_3": 0.0})])
    counts = collections.Counter(curriculum.task(7, i) for i in range(4000))
    assert set(counts) == {ONE, TWO} and curriculum.tasks == (ONE, TWO)
    # Four standard deviations of a binomial share: sqrt(.25 * .75 / 4000) = .0068.
    assert abs(counts[ONE] / 4000 - 0.25) < 0.028


def test_task_is_a_function_of_seed_and_index():
    phases = [(100, {ONE: 1.0, TWO: 1.0}), (None, {ONE: 1.0, TWO: 1.0, FOUR: 2.0})]
    forward = [Curriculum(phases).task(3, i) for i in range(300)]
    other = Curriculum([(examples, dict(reversed(weights.items()))) for examples, weights in phases])
    assert [other.task(3, i) for i in reversed(range(300))][::-1] == forward
    assert [other.task(4, i) for i in range(300)] != forward


SHORT = {"o": "ramp_1_open", "w": "tool_warmup", "q": "qa", **{str(masks): f"ramp_{masks}" for masks in range(1, 11)}}


@pytest.mark.parametrize(
    ("phases", "seed", "drawn"),
    [
        (((12, "w.2 1.8"), (None, "4.1 q.2 w.2 o.2 2.2 1.1")), 0,
         "1 1 1 w w w 1 1 1 1 1 1 o 4 q 2 w w 2 2 w q q o 4 q o o q 1 4 4 1 o w 4 q 1 q w q q q q 2 q 2 4 w 4 1 q 2 2"),
        (((12, "w.2 1.8"), (None, "4.1 q.2 w.2 o.2 2.2 1.1")), 7,
         "1 1 1 1 1 1 1 1 1 w 1 1 4 w 2 4 q w 2 q 1 w w 2 q w 2 q o w q 1 w q 1 q 2 2 2 w 4 2 o 1 q o q w 1 w o 2 4 w"),
        (((None, "2.3 10.3 1.4"),), 3, "2 1 1 2 2 2 10 1 10 2 10 1 1 2 1 1 2 10 2 1"),
    ],
)  # fmt: skip
def test_the_draws_stay_as_they_were_once(phases, seed, drawn):
    """A run that is resumed, or repeated by a later version, has to see the same examples."""

    def weights(text):
        return {SHORT[one.partition(".")[0]]: float("0." + one.partition(".")[2]) for one in text.split()}

    curriculum = Curriculum([(examples, weights(text)) for examples, text in phases])
    wanted = [SHORT[one] for one in drawn.split()]
    assert [curriculum.task(seed, index) for index in range(len(wanted))] == wanted


@pytest.mark.parametrize(
    ("phases", "words"),
    [
        ([], "at least one phase"),
        ([(None, {ONE: 1.0}), (None, {TWO: 1.0})], "phase 0 has examples=None"),
        ([(5, {ONE: 1.0}), (0, {TWO: 1.0})], "phase 1 has examples=0"),
        ([(None, {ONE: 0.0})], "no task with a positive weight"),
        ([(None, {ONE: -1.0})], "task ramp_1 the weight -1.0"),
        ([(None, {ONE: float("nan")})], "task ramp_1 the weight nan"),
        ([(5, {ONE: 1.0}), (None, {"ramp_0": 1.0})], "phase 1: 'ramp_0' is no task; the tasks are ramp_<k> .*qa"),
        ([(None, {1: 1.0})], "phase 0: 1 is no task"),
    ],
)
def test_bad_phases_are_named(phases, words):
    with pytest.raises(ValueError, match=words):
        Curriculum(phases)
