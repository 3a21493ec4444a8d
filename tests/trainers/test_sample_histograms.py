"""The histograms of an iteration count what its groups and update batches hold."""

import jax.numpy as jnp
import numpy as np

from masksearch_jax.rl import loss, rewards, update_batch
from masksearch_jax.rollout.trajectory import StopReason, Trajectory
from masksearch_jax.trainers import sample_histograms
from masksearch_jax.trainers.rollout_batch import Group


def trajectory(sample: int, tokens: int, version: int) -> Trajectory:
    """Two tokens of the prompt, then `tokens` that the policy wrote with log-prob -1."""
    trainable = np.arange(2 + tokens) >= 2
    return Trajectory(
        task_id="t", group=0, sample=sample, ids=np.arange(2 + tokens, dtype=np.int32), trainable=trainable,
        logprobs=np.where(trainable, -1, 0).astype(np.float32), versions=np.where(trainable, version, -1),
        prompt_length=2, turns=(), stop=StopReason.ANSWER, answer="",
    )  # fmt: skip


def counted(histogram) -> list[float]:
    """Return the middle of the bin of each value."""
    middles = (histogram.edges[:-1] + histogram.edges[1:]) / 2
    return np.repeat(middles, histogram.counts).tolist()


def test_episodes_and_tokens_are_counted():
    made = [trajectory(0, 3, version=5), trajectory(1, 8, version=5), trajectory(2, 8, version=4)]
    shape = update_batch.BatchShape(lengths=(16,), rows=1, micro=(1, 2))
    updates = update_batch.build_batches(zip(made, (1.0, -1.0, 0.5), strict=True), 2, shape)
    updates = [update_batch.with_old_logp(one, np.where(one.mask, -1.25, 0), None) for one in updates]
    group = Group(0, 5, "ramp_1", tuple(made), (rewards.Reward(1, 1, 0, 1, 1, ()),) * 3)
    found = sample_histograms.histograms([group], updates, 5, [])
    assert sorted(found) == ["advantages", "lengths", "logprob_differences"]  # no step has been taken
    assert np.allclose(sorted(counted(found["advantages"])), [-1, 0.5, 1], atol=0.04)
    assert np.allclose(sorted(counted(found["lengths"])), [3, 8, 8], atol=0.1)
    assert found["logprob_differences"].counts.sum() == 11  # the tokens of version 5 alone
    assert sample_histograms.histograms([], [], 5, []) == {}


def test_ratios_fall_into_their_bins():
    ratio = np.array([[0.1, 0.6, 0.99, 1.0, 1.01], [1.31, 3.0, 100.0, 7.0, 7.0]])
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    reached = loss.ratio_counts(jnp.log(ratio), jnp.where(mask, 0.0, jnp.nan), mask)
    found = sample_histograms.histograms([], [], 0, [reached, reached])["ratios"]
    counts, _ = np.histogram(ratio[mask != 0], found.edges)
    assert found.counts.tolist() == (2 * counts).tolist() and found.counts.sum() == 16
