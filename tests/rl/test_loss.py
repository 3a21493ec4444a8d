"""V2 of the reference vectors: values and gradients, the sharding identities, and the values of known bugs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from masksearch_jax.rl import loss

MASK = np.array([[1, 1, 1, 0, 0, 0], [1, 1, 0, 1, 1, 0]])
RATIO = np.array([[1.5, 1.1, 0.7, 1, 1, 1], [0.6, 1.4, 3.0, 1.0, 12.0, 1]])
OLD = np.array([[-1, -2, -0.5, 0, 0, 0], [-0.7, -1.5, -2, -0.2, -6, 0]])
NEW = OLD + np.log(RATIO)
ADVANTAGES = np.array([1.2, -0.8])
SAMPLER = OLD - np.log([[1.05, 0.9, 2.5, 1, 1, 1], [1, 0.5, 1, 3, 1.02, 1]])


policy_loss = jax.jit(
    loss.policy_loss, static_argnames=("clip_low", "clip_high", "dual_clip", "aggregation", "horizon")
)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def mean(**changes):
    args = {"logp": NEW, "old_logp": OLD, "advantages": ADVANTAGES, "mask": MASK, **changes}
    args = {name: jnp.asarray(value) if isinstance(value, np.ndarray) else value for name, value in args.items()}
    total, count, _ = policy_loss(**args)
    return total / count


@jax.jit
def means(logp, old_logp, advantages, mask, segments=None):
    """The loss under every aggregation, in one program."""
    found = []
    for aggregation in loss.AGGREGATIONS:
        total, count, _ = loss.policy_loss(
            logp, old_logp, advantages, mask, aggregation=aggregation, segments=segments, horizon=6
        )
        found.append(total / count)
    return jnp.stack(found)


@pytest.mark.parametrize(
    "aggregation, horizon, plain, dual",
    [
        ("token-mean", 0, 1.209143, 0.980571),
        ("seq-mean-token-mean", 0, 0.904000, 0.704000),
        ("seq-mean-token-sum", 0, 4.232000, 3.432000),
        ("seq-mean-token-sum-norm", 6, 0.705333, 0.572000),
    ],
)
def test_v2_values(aggregation, horizon, plain, dual):
    settings = {"aggregation": aggregation, "horizon": horizon}
    assert mean(dual_clip=0, **settings) == pytest.approx(plain, abs=1e-6)
    assert mean(dual_clip=10.0, **settings) == pytest.approx(dual, abs=1e-6)


def test_v2_gradient_and_finite_differences():
    expected = [[0, -0.188571, -0.12, 0, 0, 0], [0, 0.16, 0, 0.114286, 0, 0]]
    value = jax.jit(lambda logp: mean(logp=logp))
    grad = jax.grad(value)(jnp.asarray(NEW))
    np.testing.assert_allclose(grad, expected, atol=1e-6)
    for index in np.ndindex(NEW.shape):
        step = np.zeros_like(NEW)
        step[index] = 1e-6
        slope = (value(NEW + step) - value(NEW - step)) / 2e-6
        assert slope == pytest.approx(float(grad[index]), abs=1e-6), index


@pytest.mark.parametrize("aggregation", loss.AGGREGATIONS)
def test_gradients_of_every_aggregation_on_random_data(aggregation):
    rng = np.random.default_rng(0)
    old, new = rng.normal(-1, 0.4, (2, 3, 5))
    mask = rng.random((3, 5)) < 0.7
    segments = np.sort(rng.integers(1, 3, (3, 5)), axis=1)
    advantages = rng.normal(size=(3, 5))
    weights = rng.random((3, 5)) + 0.5

    @jax.jit
    def value(logp):
        return mean(logp=logp, old_logp=old, advantages=advantages, mask=mask, segments=segments, weights=weights,
                    dual_clip=1.5, aggregation=aggregation, horizon=7)  # fmt: skip

    grad = jax.grad(value)(jnp.asarray(new))
    for index in np.ndindex(new.shape):
        step = np.zeros_like(new)
        step[index] = 1e-6
        assert (value(new + step) - value(new - step)) / 2e-6 == pytest.approx(float(grad[index]), abs=1e-6)


def test_v2_metrics():
    _, _, metrics = policy_loss(*map(jnp.asarray, (NEW, OLD, ADVANTAGES, MASK)), entropy=jnp.asarray(-NEW))
    means = {name: float(total / count) for name, (total, count) in metrics.items()}
    kept = MASK.astype(bool)
    assert means["clip_high"] == pytest.approx(1 / 7)
    assert means["clip_low"] == pytest.approx(1 / 7)
    assert means["dual_clip"] == pytest.approx(1 / 7)
    assert means["approx_kl"] == pytest.approx(-0.350665, abs=1e-6)
    assert means["ratio"] == pytest.approx(RATIO[kept].mean())
    assert means["ratio_square"] == pytest.approx((RATIO[kept] ** 2).mean())
    assert means["entropy"] == pytest.approx(-NEW[kept].mean())
    assert all(count == 7 for _, count in metrics.values())


def test_v2_truncated_importance_weights():
    weights = loss.truncated_importance_weights(*map(jnp.asarray, (OLD, SAMPLER, MASK)), cap=2.0)
    np.testing.assert_allclose(weights, [[1.05, 0.9, 2, 1, 1, 1], [1, 0.5, 1, 2, 1.02, 1]], rtol=1e-6)
    assert mean(weights=weights) == pytest.approx(0.925600, abs=1e-6)
    # Detached: the weight scales the gradient and has none of its own.
    grad = jax.grad(lambda x: mean(weights=loss.truncated_importance_weights(x, jnp.asarray(SAMPLER), MASK)))
    assert not grad(jnp.asarray(OLD)).any()


def test_v2_split_into_micro_batches_is_exact_and_the_bugs_are_not():
    rows = [[jnp.asarray(x[row : row + 1]) for x in (NEW, OLD, ADVANTAGES, MASK)] for row in (0, 1)]
    pairs = [policy_loss(*row)[:2] for row in rows]
    assert [float(total) / 7 * 2 for total, _ in pairs] == pytest.approx([-1.056000, 3.017143], abs=1e-6)
    assert sum(t for t, _ in pairs) / sum(c for _, c in pairs) == pytest.approx(0.980571, abs=1e-6)
    # What other codes compute: a mean of means, the observation left in, the padded width as denominator.
    assert np.mean([t / c for t, c in pairs]) == pytest.approx(0.704, abs=1e-6)
    observed = MASK.copy()
    observed[1, 2] = 1
    assert mean(mask=observed) == pytest.approx(1.158, abs=1e-6)
    assert sum(t for t, _ in pairs) / 12 == pytest.approx(0.572, abs=1e-6)


def test_sharded_rows_give_the_same_sums_and_gradients():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.NamedSharding(mesh, jax.P("data"))
    tiled = [np.tile(x, (2,) + (1,) * (x.ndim - 1)) for x in (NEW, OLD, ADVANTAGES, MASK)]
    grad = jax.jit(jax.jacobian(means))
    sharded = [jax.device_put(x, rows) for x in tiled]
    np.testing.assert_allclose(means(*tiled), means(*sharded), atol=1e-12)
    np.testing.assert_allclose(grad(*tiled), grad(*sharded), atol=1e-12)


def test_masked_positions_reach_neither_value_nor_gradient():
    grad = jax.value_and_grad(lambda logp, **changes: mean(logp=logp, **changes))
    clean = grad(jnp.asarray(NEW))
    holes = np.where(MASK, 0.0, np.nan)
    dirty = grad(jnp.asarray(NEW + holes), old_logp=OLD + holes, weights=np.ones_like(NEW) + holes,
                 advantages=ADVANTAGES[:, None] + holes)  # fmt: skip
    assert float(clean[0]) == float(dirty[0])
    np.testing.assert_array_equal(clean[1], dirty[1])


def test_padding_and_empty_rows_add_nothing():
    pad = ((0, 3), (0, 2))
    advantages = np.pad(ADVANTAGES, (0, 3), constant_values=5.0)
    wide = means(np.pad(NEW, pad), np.pad(OLD, pad), advantages, np.pad(MASK, pad))
    np.testing.assert_allclose(wide, means(NEW, OLD, ADVANTAGES, MASK), atol=1e-12)
    total, count, metrics = policy_loss(*map(jnp.asarray, (NEW, OLD, ADVANTAGES, 0 * MASK)))
    assert float(total) == float(count) == float(metrics["ratio"][0]) == 0


def test_packed_equals_one_sequence_a_row():
    arrays = (x.reshape(1, -1) for x in (NEW, OLD, np.repeat(ADVANTAGES[:, None], 6, 1), MASK))
    packed = means(*arrays, np.repeat([[1, 2]], 6, 1))
    np.testing.assert_allclose(packed, means(NEW, OLD, ADVANTAGES, MASK), atol=1e-12)


def test_first_step_ratio_is_one_and_log_ratio_is_clamped():
    _, _, metrics = policy_loss(*map(jnp.asarray, (OLD, OLD, ADVANTAGES, MASK)))
    assert float(metrics["ratio"][0]) == 7 and float(metrics["clip_low"][0] + metrics["clip_high"][0]) == 0
    total, _, metrics = policy_loss(*map(jnp.asarray, (OLD + 1e4, OLD, ADVANTAGES, MASK)), dual_clip=0)
    assert np.isfinite(total) and float(metrics["ratio"][0]) == pytest.approx(7 * np.exp(20.0))


def test_the_two_clips_are_told_apart():
    moved = jnp.array([[1.0, 1.0, -1.0, 1.0, -1.0, 1.0]])
    advantages = jnp.array([[1.0, 2.0, -1.0, -1.0, 1.0, 0.0]])
    _, _, metrics = policy_loss(moved, jnp.zeros_like(moved), advantages, jnp.ones_like(moved))
    assert [float(metrics[name][0]) for name in ("clip_high", "clip_low", "dual_clip")] == [2, 1, 0]


def test_the_ends_of_the_ranges_are_accepted():
    loss.validate_loss(0.0, 0.0, 0.0, "token-mean", 0)
    loss.validate_loss(1.0, 0.28, 1.001, "seq-mean-token-sum-norm", 1)


def test_settings_out_of_range_are_refused():
    for settings, name in [({"clip_low": 1.5}, "clip_low"), ({"dual_clip": 0.5}, "dual_clip"),
                           ({"aggregation": "mean"}, "aggregation 'mean'"),
                           ({"aggregation": "seq-mean-token-sum-norm"}, "horizon")]:  # fmt: skip
        with pytest.raises(ValueError, match=name):
            mean(**settings)
