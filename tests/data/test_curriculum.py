"""Curriculum: levels follow the phases, and depend on (seed, index) alone."""

import collections

import pytest

from masksearch_jax.data.curriculum import Curriculum, level_name, level_of


def test_staged():
    curriculum = Curriculum([(3, {1: 1.0}), (2, {2: 5.0}), (None, {4: 1.0})])
    assert [curriculum.level(0, i) for i in range(8)] == [1, 1, 1, 2, 2, 4, 4, 4]
    assert [curriculum.phase(i) for i in (0, 2, 3, 4, 5, 10**9)] == [0, 0, 1, 1, 2, 2]
    assert curriculum.levels == (1, 2, 4)


def test_levels_have_names():
    assert [level_name(level) for level in (-2, -1, 0, 1, 4)] == ["open", "lookup", "qa", "ramp_1", "ramp_4"]
    assert [level_of(level_name(level)) for level in range(-2, 5)] == list(range(-2, 5))


def test_last_phase_outlasts_its_examples():
    curriculum = Curriculum([(3, {1: 1.0}), (2, {2: 1.0})])
    assert curriculum.level(0, 1000) == 2


def test_mixed_shares_follow_the_weights():
    curriculum = Curriculum([(None, {1: 1.0, 2: 3.0, 3: 0.0})])
    counts = collections.Counter(curriculum.level(7, i) for i in range(4000))
    assert set(counts) == {1, 2} and curriculum.levels == (1, 2)
    # Four standard deviations of a binomial share: sqrt(.25 * .75 / 4000) = .0068.
    assert abs(counts[1] / 4000 - 0.25) < 0.028


def test_level_is_a_function_of_seed_and_index():
    phases = [(100, {1: 1.0, 2: 1.0}), (None, {1: 1.0, 2: 1.0, 4: 2.0})]
    forward = [Curriculum(phases).level(3, i) for i in range(300)]
    other = Curriculum([(examples, {str(k): v for k, v in weights.items()}) for examples, weights in phases])
    assert [other.level(3, i) for i in reversed(range(300))][::-1] == forward
    assert [other.level(4, i) for i in range(300)] != forward


@pytest.mark.parametrize(
    ("phases", "words"),
    [
        ([], "at least one phase"),
        ([(None, {1: 1.0}), (None, {2: 1.0})], "phase 0 has examples=None"),
        ([(5, {1: 1.0}), (0, {2: 1.0})], "phase 1 has examples=0"),
        ([(None, {1: 0.0})], "no level with a positive weight"),
        ([(None, {1: -1.0})], "level 1 the weight -1.0"),
        ([(None, {1: float("nan")})], "level 1 the weight nan"),
    ],
)
def test_bad_phases_are_named(phases, words):
    with pytest.raises(ValueError, match=words):
        Curriculum(phases)
