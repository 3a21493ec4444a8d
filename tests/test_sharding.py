"""Meshes, rule tables and their errors, on eight forced CPU devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from masksearch_jax import sharding

P = jax.P


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [((1, -1, 1), (1, 8, 1)), ((2, -1, 2), (2, 2, 2)), ((1, 1, 1), (1, 1, 1)), ((-1, 1, 2), (4, 1, 2))],
)
def test_make_mesh(sizes, shape):
    mesh = sharding.make_mesh(*sizes)
    assert mesh.axis_names == ("data", "fsdp", "tensor")
    assert tuple(mesh.shape.values()) == shape


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ((3, -1, 1), "8 devices do not divide by 3"),
        ((-1, -1, 1), "at most one"),
        ((4, 4, 1), "needs 16 devices"),
        ((0, 1, 1), "at least 1"),
    ],
)
def test_make_mesh_refuses(sizes, says):
    with pytest.raises(ValueError, match=says):
        sharding.make_mesh(*sizes)


def spec(axes, shape, rules=sharding.TRAIN, sizes=(2, 2, 2)):
    return sharding.partition_spec("w", axes, shape, sharding.make_mesh(*sizes), rules)


def test_rules_translate():
    assert spec(("layers", "embed", "heads", "head_dim"), (3, 4, 2, 5)) == P(None, "fsdp", "tensor")
    assert spec(("layers", "embed", "ff"), (3, 4, 2), sharding.DECODE) == P(None, None, "tensor")
    assert spec(("batch", "time"), (8, 5)) == P(("data", "fsdp"))
    assert spec(("norm", None), (3, 3)) == P()


def test_a_mesh_axis_of_one_leaves_no_trace():
    assert spec(("vocab", "embed"), (3, 5), sizes=(8, 1, 1)) == P()
    assert spec(("batch", "time"), (8, 5), sizes=(8, 1, 1)) == P("data")


def test_few_kv_heads_are_replicated_and_nothing_else_is():
    assert spec(("embed", "kv_heads", "head_dim"), (4, 2, 8), sizes=(1, 2, 4)) == P("fsdp")
    assert spec(("embed", "kv_heads", "head_dim"), (4, 8, 8), sizes=(1, 2, 4)) == P("fsdp", "tensor")
    with pytest.raises(ValueError, match="axis 'kv_heads' has size 3, which 4 shards"):
        spec(("kv_heads",), (3,), sizes=(1, 2, 4))
    with pytest.raises(ValueError, match="axis 'heads' has size 2, which 4 shards"):
        spec(("heads",), (2,), sizes=(1, 2, 4))


@pytest.mark.parametrize(
    ("axes", "shape", "says"),
    [
        (("heads", "ff"), (2, 2), "array w: axes 'heads' and 'ff' both land on mesh axis 'tensor'"),
        (("embed",), (3,), "array w: axis 'embed' has size 3, which 2 shards"),
        (("embed",), (2, 2), "1 logical axes"),
        (("width",), (2,), "logical axis 'width' has no rule"),
    ],
)
def test_errors_name_the_array_and_the_axis(axes, shape, says):
    with pytest.raises(ValueError, match=says):
        spec(axes, shape)


def test_reshard_moves_casts_and_compiles_once():
    mesh = sharding.make_mesh(2, 2, 2)
    tree = {"w": jnp.arange(16.0).reshape(4, 4), "n": jnp.arange(4)}
    start = {
        "w": sharding.named_sharding(mesh, ("embed", "ff"), (4, 4), sharding.TRAIN),
        "n": sharding.replicated(mesh),
    }
    target = {**start, "w": sharding.named_sharding(mesh, ("embed", "ff"), (4, 4), sharding.DECODE)}
    placed = jax.device_put(tree, start)
    moved = sharding.reshard(placed, target, jnp.bfloat16)
    before = sharding._resharder.cache_info().misses
    sharding.reshard(placed, {**target}, jnp.bfloat16)
    assert sharding._resharder.cache_info().misses == before
    assert moved["w"].sharding.spec == P(None, "tensor") and moved["w"].dtype == jnp.bfloat16
    assert moved["n"].dtype == tree["n"].dtype
    np.testing.assert_array_equal(moved["w"].astype(jnp.float32), tree["w"])
    assert sharding.reshard(placed, target)["w"].dtype == jnp.float32


def test_constrain_pins_under_a_mesh_and_is_nothing_without():
    x = jnp.zeros((8, 3, 4))
    assert sharding.constrain(x, "batch", None, None) is x
    mesh = sharding.make_mesh(2, 2, 2)
    with jax.set_mesh(mesh):
        pinned = jax.jit(lambda x: sharding.constrain(x, "batch", None, None) + 1)(x)
        narrow = jax.jit(lambda x: sharding.constrain(x, "batch", None, None) + 1)(x[:3])
    assert pinned.sharding.is_equivalent_to(sharding.batch_sharding(mesh), 3)
    assert narrow.shape == (3, 3, 4)
