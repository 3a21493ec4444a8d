import jax
import jax.numpy as jnp
import numpy as np
import optax

from masksearch_jax.model.config import ModelConfig
from masksearch_jax.model.policy import Policy
from masksearch_jax.runtime import mesh as mesh_lib
from masksearch_jax.trainers import optimizer as optimizer_lib
from masksearch_jax.trainers import state as state_lib

CFG = ModelConfig(vocab_size=32, layers=2, embed=16, heads=2, kv_heads=1, head_dim=8, ff=16)


def quadratic(params, batch):
    """A loss whose sum and count both depend on the batch."""
    total = sum(jnp.sum(jnp.square(p)) for p in jax.tree.leaves(params)) * jnp.sum(batch["x"])
    return total, jnp.sum(batch["x"]), {"x": (jnp.sum(batch["x"]), jnp.float32(batch["x"].size))}


def test_any_split_into_micro_batches_gives_the_same_sums():
    params = {"w": jnp.arange(4.0), "b": jnp.ones(3)}
    x = jnp.arange(12.0)
    results = [state_lib.accumulate(quadratic, params, {"x": x.reshape(m, -1)}) for m in (1, 2, 3, 6)]
    for grads, total, count, sums in results[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), grads, results[0][0])
        assert float(count) == 66 and np.isclose(float(total), float(results[0][1]))
        assert tuple(map(float, sums["x"])) == (66.0, 12.0)


def _state(tx):
    policy = Policy(CFG, mesh_lib.make_mesh(1, 1, 1))
    return state_lib.create_state(policy, tx, policy.init_params(0))


def test_gradients_are_divided_once_and_a_step_that_is_not_finite_is_refused():
    tx = optax.sgd(1.0)
    state = _state(tx)
    ones = jax.tree.map(jnp.ones_like, state.params)
    after, norm, good = state_lib.apply_gradients(state, tx, ones, jnp.float32(4))
    assert bool(good) and int(after.step) == 1 and int(after.skipped) == 0
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a - b, 0.25, rtol=1e-5), state.params, after.params)
    poisoned = jax.tree.map(jnp.copy, ones)
    poisoned["final_norm"] = poisoned["final_norm"].at[0].set(jnp.nan)
    refused, _, good = state_lib.apply_gradients(state, tx, poisoned, jnp.float32(4))
    assert not bool(good) and int(refused.step) == 1 and int(refused.skipped) == 1
    jax.tree.map(np.testing.assert_array_equal, state.params, refused.params)
    # A batch without a single trainable token takes no step either.
    assert not bool(state_lib.apply_gradients(state, tx, ones, jnp.float32(0))[2])


def test_abstract_state_matches_a_real_one_under_a_mesh():
    policy = Policy(CFG, mesh_lib.make_mesh(2, 2, 2))
    for kind in ("adamw", "muon"):
        tx = optimizer_lib.build_optimizer({"kind": kind}, policy.abstract_trainable)
        real = state_lib.create_state(policy, tx, policy.init_params(0))
        abstract = state_lib.abstract_state(policy, tx)
        assert jax.tree.structure(real) == jax.tree.structure(abstract)
        for a, b in zip(jax.tree.leaves(abstract), jax.tree.leaves(real), strict=True):
            assert a.shape == b.shape and a.dtype == b.dtype and a.sharding.is_equivalent_to(b.sharding, b.ndim)
