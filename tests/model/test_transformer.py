"""The decoder against numpy; packing, remat, mixed precision and sharding change layout or cost, never the numbers."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpy_decoder
import pytest
from flax import nnx
from tiny_models import CONFIGS, one_device, random_ids, scattered_params

from masksearch_jax.model import kv_cache as kv
from masksearch_jax.model import transformer
from masksearch_jax.runtime import mesh as mesh_lib

forward = jax.jit(transformer.forward, static_argnums=0)
unembed = jax.jit(transformer.unembed, static_argnums=0)


def whole(ids):
    """positions and segments of rows that each hold one full sequence."""
    return np.broadcast_to(np.arange(ids.shape[1]), ids.shape), np.ones(ids.shape, np.int32)


def loss_and_gradient(cfg, params, ids):
    def loss(params):
        logits = transformer.unembed(cfg, params, transformer.forward(cfg, params, ids, *whole(ids)))
        return (jax.nn.log_softmax(logits)[..., 3] * jnp.arange(1.0, ids.shape[1] + 1)).mean(), logits

    (value, logits), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    return value, logits, gradient


@functools.cache
def unsharded_step(cfg):
    return jax.jit(functools.partial(loss_and_gradient, cfg))


@pytest.mark.parametrize("name", CONFIGS)
def test_forward_equals_numpy_float64(name):
    cfg = CONFIGS[name]
    params = scattered_params(cfg)
    ids = random_ids(cfg, 2, 9, seed=3)
    got = unembed(cfg, params, forward(cfg, params, ids, *whole(ids)))
    wide = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    for row, expected in zip(got, (numpy_decoder.logits(cfg, wide, row) for row in ids), strict=True):
        assert row.dtype == jnp.float32
        np.testing.assert_allclose(row, expected, atol=1e-4)


@pytest.mark.parametrize("name", CONFIGS)
def test_packed_equals_padded(name):
    cfg = CONFIGS[name]
    params = scattered_params(cfg)
    lengths = (5, 1, 7)
    texts = [random_ids(cfg, 1, n, seed=n)[0] for n in lengths]
    packed = np.concatenate([*texts, np.zeros(3, np.int32)])[None]
    positions = np.concatenate([*map(np.arange, lengths), np.zeros(3, int)])[None]
    segments = np.repeat([1, 2, 3, 0], [*lengths, 3])[None]
    together = forward(cfg, params, packed, positions, segments)[0]
    padded = np.stack([np.pad(t, (0, 7 - len(t)), constant_values=9) for t in texts])
    index = np.broadcast_to(np.arange(7), (3, 7))
    apart = forward(cfg, params, padded, index, (index < np.array(lengths)[:, None]).astype(int))
    expected = np.concatenate([row[:n] for row, n in zip(apart, lengths, strict=True)])
    np.testing.assert_allclose(together[:13], expected, atol=1e-5)
    assert np.isfinite(together).all()


@pytest.mark.slow
def test_remat_policies_give_the_same_gradient():
    cfg = CONFIGS["tiny"]
    params = scattered_params(cfg)
    ids = random_ids(cfg, 2, 6, seed=4)
    plain, dots, full = (
        unsharded_step(dataclasses.replace(cfg, remat=remat))(params, ids)[2] for remat in ("none", "dots", "full")
    )
    for other in (dots, full):
        jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), plain, other)


@pytest.mark.parametrize("remat", ["dots", "full"])
def test_remat_recomputes(remat):
    cfg = dataclasses.replace(CONFIGS["tiny"], remat=remat)
    ids = np.zeros((1, 4), int)
    jaxpr = jax.make_jaxpr(lambda p: transformer.forward(cfg, p, ids, *whole(ids)))(scattered_params(cfg))
    assert "remat" in str(jaxpr) or "checkpoint" in str(jaxpr)


def test_bfloat16_compute_keeps_float32_params_and_logits():
    cfg = dataclasses.replace(CONFIGS["qwen2"], dtype="bfloat16")
    params = scattered_params(CONFIGS["qwen2"])
    ids = random_ids(cfg, 2, 9)
    hidden = forward(cfg, params, ids, *whole(ids))
    exact = forward(CONFIGS["qwen2"], params, ids, *whole(ids))
    assert hidden.dtype == jnp.bfloat16
    assert {x.dtype.name for x in jax.tree.leaves(params)} == {"float32"}
    assert transformer.unembed(cfg, params, hidden).dtype == jnp.float32
    assert kv.abstract_cache(cfg, 1, 8, one_device()).k[0][0].dtype == jnp.bfloat16
    np.testing.assert_allclose(hidden.astype(jnp.float32), exact, atol=0.1)
    stored = transformer.abstract_params(dataclasses.replace(cfg, param_dtype="bfloat16"), one_device())
    assert {x.dtype.name for x in jax.tree.leaves(stored)} == {"bfloat16"}


# 2 key-value heads on 4 tensor shards are replicated. A token shift reaches over from one shard of time to the next.
@pytest.mark.parametrize(
    "name, shape, sequence",
    [
        ("qwen2", (1, 2, 4), 1),
        pytest.param("qwen2", (2, 2, 2), 1, marks=pytest.mark.slow),
        pytest.param("qwen3", (1, 2, 2), 2, marks=pytest.mark.slow),
    ],
)
def test_sharded_equals_unsharded(name, shape, sequence):
    cfg = CONFIGS[name]
    ids = random_ids(cfg, 8, 6, seed=5)
    params = scattered_params(cfg)
    expected = unsharded_step(cfg)(params, ids)
    mesh = mesh_lib.make_mesh(*shape, sequence=sequence)
    layout = transformer.param_shardings(cfg, mesh)
    whole_ = mesh_lib.replicated(mesh)
    step = jax.jit(functools.partial(loss_and_gradient, cfg), out_shardings=(whole_, whole_, layout))
    with jax.set_mesh(mesh):  # activations are pinned as in the trainers
        got = step(jax.device_put(params, layout), jax.device_put(ids, mesh_lib.batch_sharding(mesh)))
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), got, expected)


def test_sharded_init_equals_unsharded_init():
    cfg = CONFIGS["qwen3"]
    mesh = mesh_lib.make_mesh(2, 2, 2)
    sharded = transformer.init_params(cfg, 7, mesh)
    alone = transformer.init_params(cfg, 7, one_device())
    jax.tree.map(np.testing.assert_array_equal, sharded, alone)
    assert not np.array_equal(alone["embedding"], transformer.init_params(cfg, 8, one_device())["embedding"])
    assert sharded["embedding"].sharding.spec == jax.P("tensor", "fsdp")


def test_specs_of_init_abstract_and_nnx_agree():
    cfg = CONFIGS["qwen2"]
    mesh = mesh_lib.make_mesh(2, 2, 2)
    abstract = transformer.abstract_params(cfg, mesh)

    def same(a, b):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert a.sharding.is_equivalent_to(b.sharding, len(a.shape))

    jax.tree.map(same, transformer.init_params(cfg, 0, mesh), abstract)
    with nnx.logical_axis_rules(list(mesh_lib.TRAIN.items())):
        state = nnx.get_abstract_model(lambda: transformer.Transformer(cfg, rngs=nnx.Rngs(0)), mesh)[1]
    jax.tree.map(same, nnx.to_pure_dict(state), abstract)


def test_a_layout_that_does_not_fit_names_the_array():
    with pytest.raises(ValueError, match=r"array blocks.attention.o: axis 'heads' has size 2, which 8 shards"):
        transformer.init_params(CONFIGS["tiny"], 0, mesh_lib.make_mesh(1, 1, 8))


def test_initial_scales():
    cfg = dataclasses.replace(CONFIGS["tiny"], embed=128, head_dim=64, ff=256, vocab_size=256)
    params = transformer.init_params(cfg, 0, one_device())
    attention, mlp = params["blocks"]["attention"], params["blocks"]["mlp"]
    # Fan-in, and smaller by sqrt(2 L) where a product writes to the residual stream.
    expected = {128**-0.5: (params["embedding"], attention["q"], mlp["up"]), 128**-0.5 / 2: (attention["o"],)}
    expected[256**-0.5 / 2] = (mlp["down"],)
    for std, arrays in expected.items():
        for array in arrays:
            np.testing.assert_allclose(np.std(array), std, rtol=0.05)
            assert abs(np.mean(array)) < 0.05 * std
    np.testing.assert_array_equal(attention["smear"], np.full((2, 2), 0.5))
    np.testing.assert_array_equal(params["final_norm"], np.ones(128))
