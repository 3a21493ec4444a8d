"""V1 of the reference vectors (numpy float64) and the degenerate groups."""

import numpy as np
import pytest

from masksearch_jax.rl.advantages import group_advantages


@pytest.mark.parametrize(
    "rewards, ddof1, ddof0",
    [
        ([1, 0, 0, 1, 1], [0.730295, -1.095443, -1.095443, 0.730295, 0.730295],
         [0.816495, -1.224742, -1.224742, 0.816495, 0.816495]),
        ([1, -1, -1, 1, -1, -1, -1, -1], [1.620183, -0.540061, -0.540061, 1.620183] + [-0.540061] * 4,
         [1.732049, -0.577350, -0.577350, 1.732049] + [-0.577350] * 4),
        ([1, -1, 0.5, -1.25], [1.073371, -0.734412, 0.621425, -0.960385],
         [1.239422, -0.848026, 0.717560, -1.108957]),
        ([0.7] * 4, [0.0] * 4, [0.0] * 4),
    ],
)  # fmt: skip
def test_v1(rewards, ddof1, ddof0):
    np.testing.assert_allclose(group_advantages([rewards]), [ddof1], atol=1e-6)
    np.testing.assert_allclose(group_advantages([rewards], ddof=0), [ddof0], atol=1e-6)
    centred = np.asarray(rewards) - np.mean(rewards)
    np.testing.assert_allclose(group_advantages([rewards], mode="mean"), [centred], atol=1e-12)


def test_v1_without_std():
    np.testing.assert_allclose(group_advantages([[1, 0, 0, 1, 1]], mode="mean"), [[0.4, -0.6, -0.6, 0.4, 0.4]])


@pytest.mark.parametrize("value", [0.1, 0.3, 1 / 3, 1e6 / 3])
def test_constant_groups_are_zero_even_in_float32(value):
    rewards = np.full((2, 7), value, np.float32)
    assert (group_advantages(rewards) == 0).all()
    assert (group_advantages(np.full((1, 3), value)) == 0).all()
    assert (group_advantages([[value]]) == 0).all()


def test_two_samples_are_a_group():
    np.testing.assert_allclose(group_advantages([[0.0, 1.0]]), [[-(0.5**0.5), 0.5**0.5]], atol=1e-5)
    np.testing.assert_allclose(group_advantages([[0.0, 1.0], [np.nan, 1.0]], mode="mean"), [[-0.5, 0.5], [np.nan, 0]])


def test_groups_do_not_mix_and_permuting_permutes():
    rng = np.random.default_rng(0)
    rewards = rng.random((5, 8))
    whole = group_advantages(rewards)
    for group in range(5):
        np.testing.assert_array_equal(whole[group], group_advantages(rewards[group : group + 1])[0])
    order = rng.permutation(8)
    np.testing.assert_allclose(group_advantages(rewards[:, order]), whole[:, order], atol=1e-12)


def test_failed_rewards_stay_out_of_the_group():
    rewards = [[1.0, np.nan, 0.0, 0.0, 1.0, 1.0], [np.nan, 0.5, 0.5, 0.5, 0.5, 0.5], [np.nan] * 5 + [1.0]]
    found = group_advantages(rewards)
    assert np.isnan(found[0, 1])
    np.testing.assert_allclose(np.delete(found[0], 1), group_advantages([[1, 0, 0, 1, 1]])[0])
    np.testing.assert_array_equal(found[1], [np.nan, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(found[2], [np.nan] * 5 + [0])


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="shape"):
        group_advantages([1.0, 2.0])
    with pytest.raises(ValueError, match="shape"):
        group_advantages([[[1.0, 2.0]]])
    with pytest.raises(ValueError, match="infinite"):
        group_advantages([[1.0, np.inf]])
    with pytest.raises(ValueError, match=r"values at \[\[0, 0\], \[0, 1\], \[0, 2\], \[0, 3\]\]$"):
        group_advantages([[np.inf] * 6])
    with pytest.raises(ValueError, match="mode 'std'"):
        group_advantages([[1.0, 2.0]], mode="std")
