"""Sums over micro-batches are float32 whatever the parameters are, and rows that do not divide are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from masksearch_jax.runtime import mesh as mesh_lib
from masksearch_jax.trainers import state as state_lib
from masksearch_jax.trainers.row_checks import check_rows
from masksearch_jax.workflows import training


def loss(params, batch):
    """A gradient of `batch` for each parameter, and a count of its own."""
    return jnp.sum(params["w"] * batch["g"].astype(params["w"].dtype)), batch["n"], {"n": (batch["n"], jnp.ones(()))}


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("splits", [1, 512])
def test_equal_micro_batches_add_up_exactly(dtype, splits):
    params = {"w": jnp.ones(3, dtype)}
    counts = np.full(splits, 100_003 // splits, np.float32)
    counts[-1] += 100_003 % splits
    batch = {"g": jnp.full((splits, 3), 4.0), "n": jnp.asarray(counts)}
    grads, total, count, sums = jax.jit(lambda p, b: state_lib.accumulate(loss, p, b))(params, batch)
    assert {x.dtype.name for x in jax.tree.leaves((grads, total, count, sums))} == {"float32"}
    np.testing.assert_array_equal(grads["w"], np.full(3, 4.0 * splits))
    assert count == 100_003


def test_a_count_beyond_bfloat16_divides_exactly():
    """100,003 is 99,840 in bfloat16; XLA divides by the reciprocal, so to one unit in the last place."""
    params = {"w": jnp.ones(2, jnp.bfloat16)}
    state = state_lib.TrainState(jnp.int32(0), jnp.int32(0), params, optax.sgd(1.0).init(params))
    seen = {}

    def update(grads, opt_state, params):
        seen["grads"] = grads
        return jax.tree.map(lambda g: g.astype(jnp.bfloat16), grads), opt_state

    tx = optax.GradientTransformation(optax.sgd(1.0).init, update)
    state_lib.apply_gradients(state, tx, {"w": jnp.full(2, 100_003.0)}, jnp.float32(100_003))
    np.testing.assert_allclose(seen["grads"]["w"], [1.0, 1.0], rtol=1e-6)
    assert seen["grads"]["w"].dtype == jnp.float32


@pytest.mark.parametrize(
    ("rows", "micro_batches", "shape", "says"),
    [
        (10, 1, (8, 1), "sft.rows=10 does not divide into 1 micro-batches over 8 devices .*sft.rows to 8 or 16"),
        (8, 2, (4, 2), "set sft.rows to 16"),
        (12, 2, (2, 2), "sft.rows to 8 or 16"),
        (0, 1, (1, 1), "both are at least 1"),
    ],
)
def test_rows_that_do_not_divide_are_refused(rows, micro_batches, shape, says):
    mesh = mesh_lib.make_mesh(*shape, 1, devices=jax.devices()[: shape[0] * shape[1]])
    with pytest.raises(ValueError, match=says):
        check_rows("sft", rows, micro_batches, mesh)
    check_rows("sft", 16, 2, mesh)


def test_rows_are_judged_before_any_data_is_made(cfg, tmp_path):
    cfg.mesh.data = 8
    with pytest.raises(ValueError, match="sft.rows=4 does not divide into 1 micro-batches over 8 devices"):
        training.run(cfg, tmp_path / "w")
    cfg.sft.rows = 8
    with pytest.raises(ValueError, match="dapo.rows=4 does not divide over 8 shards"):
        training.run(cfg, tmp_path / "w")
    assert not (tmp_path / "w").exists()
