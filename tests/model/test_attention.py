"""Attention, rotary positions and the norm against plain numpy loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from masksearch_jax.model import attention, norm
from masksearch_jax.model.config import ModelConfig


def naive_attend(q, k, v, mask):
    batch, heads, steps, width = q.shape
    group = heads // k.shape[1]
    out = np.zeros_like(q)
    for b in range(batch):
        for n in range(heads):
            for s in range(steps):
                seen = np.flatnonzero(mask[b, s])
                scores = k[b, n // group, seen] @ q[b, n, s] / np.sqrt(width)
                weights = np.exp(scores - scores.max())
                out[b, n, s] = (weights / weights.sum()) @ v[b, n // group, seen]
    return out


# Few rows a head (on CPU each by itself) and many are two code paths.
@pytest.mark.parametrize(("heads", "kv_heads", "steps"), [(2, 2, 1), (4, 2, 1), (4, 1, 2), (4, 2, 5), (4, 1, 40)])
def test_attend_equals_a_loop(heads, kv_heads, steps):
    rng = np.random.default_rng(0)
    time, width = 41, 8
    q = rng.normal(size=(2, heads, steps, width))
    k, v = rng.normal(size=(2, 2, kv_heads, time, width))
    mask = rng.random((2, steps, time)) < 0.5
    mask[..., 0] = True
    q, k, v = (x.astype(np.float32) for x in (q, k, v))
    for cuts in ([], [9, 30]):
        got = jax.jit(attention.attend)(q, *(np.split(x, cuts, axis=2) for x in (k, v)), mask)
        np.testing.assert_allclose(got, naive_attend(q, k, v, mask), atol=2e-6)


@pytest.mark.parametrize("steps", [5, 40])
def test_attend_is_finite_where_nothing_is_visible(steps):
    ones = np.ones((1, 2, steps, 8), np.float32)
    mask = np.zeros((1, steps, steps), bool)
    value, gradient = jax.jit(jax.value_and_grad(lambda q: attention.attend(q, (ones,), (ones,), mask).sum()))(ones)
    assert np.isfinite(value) and np.isfinite(gradient).all()


def test_rope_scores_depend_on_distance_only_and_leave_the_rest():
    cfg = ModelConfig(vocab_size=10, head_dim=8, rope_fraction=0.5, rope_base=100.0)
    q, k = np.random.default_rng(1).normal(size=(2, 1, 1, 1, 8)).astype(np.float32)

    @jax.jit
    def turn(x, position):
        return attention.apply_rope(x, *attention.rope_tables(cfg, position[None, None]))

    def at(x, position):
        return np.asarray(turn(x, jnp.int32(position)))

    def score(i, j):
        return (at(q, i) * at(k, j)).sum()

    np.testing.assert_allclose(score(9, 4), score(105, 100), rtol=1e-4)
    assert abs(score(9, 4) - score(9, 5)) > 1e-3
    np.testing.assert_array_equal(at(q, 7)[..., 4:], q[..., 4:])
    # The slowest pair of four rotary dimensions turns by base ** (-1/2) a step.
    angle = 7 * 100.0**-0.5
    np.testing.assert_allclose(at(q, 7)[..., 1], q[..., 1] * np.cos(angle) - q[..., 3] * np.sin(angle), rtol=1e-5)


def test_rms_norm_is_computed_in_float32():
    x = jnp.array([[3e3, 4e3]], jnp.bfloat16)
    got = norm.rms_norm(x, jnp.array([1.0, 2.0]), 1e-6)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(got.astype(jnp.float32), np.array([[3, 8]]) / np.sqrt(12.5), rtol=1e-2)
