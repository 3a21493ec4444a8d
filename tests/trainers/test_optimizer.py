"""Muon on stacked matrices, schedules, decay and clip against hand computation; the jitted step compiles once."""

import functools

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from configs import common
from masksearch_jax.model import transformer
from masksearch_jax.model.config import ModelConfig
from masksearch_jax.runtime import mesh as mesh_lib
from masksearch_jax.trainers import optimizer
from masksearch_jax.trainers.optimizer import OptimizerConfig

# ff equal to heads * head_dim, so that the reference Muon below compiles for three shapes of matrix only.
CFG = ModelConfig(
    vocab_size=32, layers=2, embed=16, heads=4, kv_heads=2, head_dim=8, ff=32, mlp="swiglu", qkv_bias=True, qk_norm=True
)


def one_device():
    return mesh_lib.make_mesh(1, 1, 1)


@functools.cache
def params_and_gradient():
    params = transformer.init_params(CFG, 0, one_device())
    rng = np.random.default_rng(0)
    return params, jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), params)


def first_update(cfg, steps=1):
    params, gradient = params_and_gradient()
    transform = optimizer.build_optimizer(cfg, transformer.abstract_params(CFG, one_device()))
    state = jax.jit(transform.init)(params)
    update = jax.jit(transform.update)
    for _ in range(steps):
        updates, state = update(gradient, state, params)
    return updates


def test_muon_updates_each_layer_alone_and_leaves_the_rest_to_adam():
    cfg = OptimizerConfig(
        kind="muon", learning_rate=0.02, adam_learning_rate=3e-3, clip=0, b1=0.8, b2=0.9, weight_decay=0.1
    )
    updates = first_update(cfg, steps=2)
    params, gradient = params_and_gradient()

    alone = optax.contrib.muon(0.02, weight_decay=0.1)
    alone_update = jax.jit(alone.update)
    matrices = {"q": (16, 32), "k": (16, 16), "v": (16, 16), "o": (32, 16)}
    matrices |= {"gate": (16, 32), "up": (16, 32), "down": (32, 16)}
    for name, shape in matrices.items():
        part = "attention" if name in "qkvo" else "mlp"
        matrix, slope, got = (np.asarray(tree["blocks"][part][name]) for tree in (params, gradient, updates))
        for layer in range(CFG.layers):
            weight = matrix[layer].reshape(shape)
            state = alone.init(weight)
            for _ in range(2):
                expected, state = alone_update(slope[layer].reshape(shape), state, weight)
            np.testing.assert_allclose(got[layer].reshape(shape), expected, atol=1e-5, err_msg=name)

    rest = [("embedding",), ("final_norm",), ("blocks", "attention_norm"), ("blocks", "mlp_norm")]
    rest += [("blocks", "attention", name) for name in ("smear", "q_bias", "k_bias", "v_bias", "q_norm", "k_norm")]
    slopes = {path: functools.reduce(lambda t, k: t[k], path, gradient) for path in rest}
    for path, slope in slopes.items():
        got = functools.reduce(lambda t, k: t[k], path, updates)
        # Nesterov Adam (Dozat 2016), second step on a constant gradient: both corrected moments are the gradient's,
        # and the look-ahead adds b1 m_2 / (1 - b1^3) to (1 - b1) g / (1 - b1^2).
        momentum = (1 - 0.8**2) * slope
        ahead = 0.8 * momentum / (1 - 0.8**3) + 0.2 * slope / (1 - 0.8**2)
        np.testing.assert_allclose(got, -3e-3 * ahead / (np.abs(slope) + 1e-8), rtol=1e-4, err_msg=".".join(path))


def test_adamw_decays_matrices_and_tables_only():
    with_decay, without = (
        first_update(OptimizerConfig(learning_rate=0.01, weight_decay=decay, clip=0)) for decay in (0.5, 0.0)
    )
    params, _ = params_and_gradient()

    def check(path, a, b, weight):
        decayed = path[-1].key in {"embedding", "q", "k", "v", "o", "gate", "up", "down"}
        np.testing.assert_allclose(a - b, -0.01 * 0.5 * weight if decayed else 0 * weight, atol=1e-7)

    jax.tree_util.tree_map_with_path(check, with_decay, without, params)


def test_clip_scales_the_gradient_by_its_global_norm():
    cfg = OptimizerConfig(learning_rate=0.5, clip=1.0, eps=1.0)
    _, gradient = params_and_gradient()
    slope = gradient["final_norm"] / np.sqrt(sum((g**2).sum() for g in jax.tree.leaves(gradient)))
    expected = -0.5 * slope / (np.abs(slope) + 1.0)  # Adam's first step
    np.testing.assert_allclose(first_update(cfg)["final_norm"], expected, rtol=1e-4)


def test_schedules():
    cosine = optimizer.schedule(OptimizerConfig(warmup=4, schedule="cosine", total_steps=24, floor=0.1))
    got = [float(cosine(step)) for step in (0, 1, 3, 4, 14, 24, 1000)]
    np.testing.assert_allclose(got, [0.25, 0.5, 1.0, 1.0, 0.55, 0.1, 0.1], rtol=1e-6)
    constant = optimizer.schedule(OptimizerConfig(warmup=2))
    np.testing.assert_allclose([float(constant(step)) for step in (0, 1, 50)], [0.5, 1, 1])


@pytest.mark.parametrize("kind", optimizer.SCHEDULES)
@pytest.mark.parametrize("warmup", [0, 1, 2, 30, 1000])
@pytest.mark.parametrize("floor", [0.0, 0.1, 1.0])
def test_schedules_at_every_step_against_float64(kind, warmup, floor):
    total = 1400
    share = optimizer.schedule(OptimizerConfig(warmup=warmup, schedule=kind, total_steps=total, floor=floor))
    step = np.arange(total + 100)
    done = np.clip((step - warmup) / (total - warmup), 0, 1)
    expected = floor + (1 - floor) * 0.5 * (1 + np.cos(np.pi * done)) if kind == "cosine" else np.ones(len(step))
    if warmup:
        expected = expected * np.minimum(1, (step + 1) / warmup)
    got = jax.jit(jax.vmap(lambda step: share(step) * jnp.ones(())))(jnp.asarray(step, jnp.int32))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, expected, atol=3e-7)


def test_state_and_arithmetic_are_float32_under_bfloat16_params():
    params, gradient = params_and_gradient()
    low = jax.tree.map(lambda x: x.astype(jnp.bfloat16), (params, gradient))
    for kind in optimizer.KINDS:
        transform = optimizer.build_optimizer(OptimizerConfig(kind=kind), low[0])
        state = jax.eval_shape(transform.init, low[0])
        updates, state = jax.eval_shape(transform.update, low[1], state, low[0])
        dtypes = {x.dtype.name for x in jax.tree.leaves((updates, state))}
        assert dtypes == {"float32", "int32"}
        changed = jax.eval_shape(optax.apply_updates, low[0], updates)
        assert {x.dtype.name for x in jax.tree.leaves(changed)} == {"bfloat16"}


@pytest.mark.parametrize("kind", optimizer.KINDS)
def test_first_moments_in_bfloat16_take_half_the_bytes_and_nothing_else_changes(kind):
    params, gradient = params_and_gradient()

    def after(mu_dtype, steps=4):
        transform = optimizer.build_optimizer(common.optimizer(kind, 0.01, mu_dtype=mu_dtype, clip=0.0), params)
        state, update = transform.init(params), jax.jit(transform.update)
        for _ in range(steps):
            before, (updates, state) = state, update(gradient, state, params)
            assert jax.tree.map(jnp.dtype, before) == jax.tree.map(jnp.dtype, state)  # one compilation, donated
        return updates, {jax.tree_util.keystr(path): x for path, x in jax.tree_util.tree_leaves_with_path(state)}

    (wide, full), (narrow, half) = after("float32"), after("bfloat16")
    moments = [name for name in full if ".mu[" in name]
    assert len(moments) == len(jax.tree.leaves(params))
    for name, leaf in half.items():
        assert leaf.dtype == (jnp.bfloat16 if name in moments else full[name].dtype), name
    # A moment keeps 8 bits; Muon's orthogonalisation magnifies what is lost where singular values are small.
    bound = {"adamw": 0.02, "muon": 0.1}[kind]
    for a, b in zip(jax.tree.leaves(narrow), jax.tree.leaves(wide), strict=True):
        assert a.dtype == jnp.float32 and np.linalg.norm(a - b) < bound * np.linalg.norm(b)


def train(mesh, kind, steps=3):
    """Loss and params after `steps` jitted steps with explicit out_shardings."""
    ids = np.random.default_rng(5).integers(0, CFG.vocab_size, (8, 6))
    index = np.broadcast_to(np.arange(6), ids.shape)
    abstract = transformer.abstract_params(CFG, mesh)
    transform = optimizer.build_optimizer(OptimizerConfig(kind=kind, learning_rate=0.01, warmup=2), abstract)
    layout = transformer.param_shardings(CFG, mesh)
    state_layout = optimizer.opt_state_shardings(transform, abstract)

    def step(params, state, ids):
        def loss(params):
            hidden = transformer.forward(CFG, params, ids, index, jnp.ones_like(ids))
            return -jax.nn.log_softmax(transformer.unembed(CFG, params, hidden))[..., 3].mean()

        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = transform.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    params = transformer.init_params(CFG, 0, mesh)
    state = jax.jit(transform.init, out_shardings=state_layout)(params)
    for real, abstract_leaf in zip(
        jax.tree.leaves(state), jax.tree.leaves(optimizer.abstract_opt_state(transform, abstract)), strict=True
    ):
        assert (real.shape, real.dtype, real.sharding) == (
            abstract_leaf.shape,
            abstract_leaf.dtype,
            abstract_leaf.sharding,
        )
    step = jax.jit(step, out_shardings=(layout, state_layout, mesh_lib.replicated(mesh)), donate_argnums=(0, 1))
    batch = jax.device_put(ids, mesh_lib.batch_sharding(mesh))
    for _ in range(steps):
        params, state, value = step(params, state, batch)
    assert step._cache_size() == 1
    return value, params


def test_a_sharded_adamw_step_compiles_once():
    value, _ = train(mesh_lib.make_mesh(2, 2, 2), "adamw")
    assert np.isfinite(value)


@pytest.mark.slow
def test_a_sharded_muon_step_compiles_once_and_equals_one_device():
    (one, params), (eight, sharded) = (train(mesh, "muon") for mesh in (one_device(), mesh_lib.make_mesh(2, 2, 2)))
    np.testing.assert_allclose(one, eight, rtol=1e-5)
    for part, name in (("attention", "q"), ("attention", "o"), ("mlp", "up"), ("mlp", "down")):
        # Steps of 0.01 after orthogonalisation, which magnifies the last bits of small singular values.
        a, b = (tree["blocks"][part][name] for tree in (params, sharded))
        np.testing.assert_allclose(a, b, atol=1e-4, err_msg=name)


def test_opt_state_mirrors_the_layout_of_its_parameter():
    abstract = transformer.abstract_params(CFG, mesh_lib.make_mesh(2, 2, 2))
    layout = optimizer.opt_state_shardings(optimizer.build_optimizer(OptimizerConfig(kind="muon"), abstract), abstract)
    specs = {jax.tree_util.keystr(path): s.spec for path, s in jax.tree_util.tree_leaves_with_path(layout)}
    muon_q = [spec for path, spec in specs.items() if path.endswith("['attention']['q']")]
    tables = [spec for path, spec in specs.items() if path.endswith("['embedding']")]
    counts = [spec for path, spec in specs.items() if path.endswith("count")]
    assert muon_q == [jax.P(None, "fsdp", "tensor")]
    assert tables == [jax.P("tensor", "fsdp")] * 2  # Adam's two moments
    assert counts and set(counts) == {jax.P()}


def test_bad_settings_are_named():
    section = ml_collections.ConfigDict({"kind": "muon", "learning_rate": 0.02, "total_steps": 10})
    assert optimizer.from_config(section, warmup=3) == OptimizerConfig(
        kind="muon", learning_rate=0.02, total_steps=10, warmup=3
    )
    with pytest.raises(ValueError, match="unknown setting lr;"):
        optimizer.from_config({"lr": 1.0})
    with pytest.raises(ValueError, match=r"optimizer.kind = 'sgd'"):
        optimizer.build_optimizer({"kind": "sgd"}, params_and_gradient()[0])
    with pytest.raises(ValueError, match="optimizer.total_steps = 5: a cosine schedule needs more"):
        OptimizerConfig(schedule="cosine", total_steps=5, warmup=5)
    with pytest.raises(ValueError, match="optimizer.clip = -1"):
        OptimizerConfig(clip=-1)
    with pytest.raises(ValueError, match="array up: Muon expects 3 axes"):
        optimizer.build_optimizer({"kind": "muon"}, {"up": jnp.zeros((4, 4))})
