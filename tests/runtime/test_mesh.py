"""Meshes, rule tables and their errors, and that no mesh changes a number, on eight forced CPU devices."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from masksearch_jax.model import kv_cache as kv
from masksearch_jax.model import transformer
from masksearch_jax.model.config import ModelConfig
from masksearch_jax.model.policy import Policy
from masksearch_jax.rl.update_batch import UpdateBatch
from masksearch_jax.runtime import mesh as mesh_lib
from masksearch_jax.trainers import dapo_programs, sft, updates
from masksearch_jax.trainers import optimizer as optimizer_lib
from masksearch_jax.trainers import state as state_lib

P = jax.P


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [((1, -1, 1), (1, 8, 1)), ((2, -1, 2), (2, 2, 2)), ((1, 1, 1), (1, 1, 1)), ((-1, 1, 2), (4, 1, 2))],
)
def test_make_mesh(sizes, shape):
    mesh = mesh_lib.make_mesh(*sizes)
    assert mesh.axis_names == ("data", "fsdp", "sequence", "tensor")
    assert tuple(mesh.shape[axis] for axis in ("data", "fsdp", "tensor")) == shape and mesh.shape["sequence"] == 1


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
        mesh_lib.make_mesh(*sizes)


class Device:
    """As much of a TPU device as placing it asks for."""

    platform, device_kind = "tpu", "TPU v5 lite"

    def __init__(self, id, process_index, coords, slice_index=0):
        self.id, self.process_index, self.coords, self.slice_index = id, process_index, coords, slice_index
        self.core_on_chip = 0


def slice_of(width, slice_index=0):
    """A v5e slice of width x width chips: hosts of 2 x 2."""
    start = slice_index * width * width
    return [
        Device(start + i, start // 4 + (y // 2) * (width // 2) + x // 2, (x, y, 0), slice_index)
        for i, (y, x) in enumerate(np.ndindex(width, width))
    ]


@pytest.mark.parametrize("sizes", [(1, 4, 4), (4, 1, 4), (2, 4, 2), (1, 16, 1), (2, 2, 4)])
def test_tensor_groups_stay_within_a_host(sizes):
    devices = slice_of(4)
    placed = mesh_lib.make_mesh(*sizes, devices=devices).devices
    assert {d.id for d in placed.flat} == set(range(16))
    for group in placed.reshape(-1, sizes[2]):
        assert len({device.process_index for device in group}) == 1
    with pytest.raises(ValueError, match="tensor = 8 does not divide the 4 devices of a host"):
        mesh_lib.make_mesh(1, 2, 8, devices=devices)


def test_only_the_data_axis_crosses_slices():
    devices = slice_of(4, 1) + slice_of(4, 0)
    mesh = mesh_lib.make_mesh(4, -1, 4, devices=devices, dcn_data=2)
    assert mesh.devices.shape == (4, 2, 1, 4)
    assert [{d.slice_index for d in part.flat} for part in mesh.devices] == [{0}, {0}, {1}, {1}]
    with pytest.raises(ValueError, match="set mesh.dcn_data=2"):
        mesh_lib.make_mesh(4, -1, 4, devices=devices)
    with pytest.raises(ValueError, match="set mesh.dcn_data=1"):
        mesh_lib.make_mesh(2, -1, 4, devices=slice_of(4), dcn_data=2)
    with pytest.raises(ValueError, match="dcn_data = 2 does not divide data"):
        mesh_lib.make_mesh(1, -1, 4, devices=devices, dcn_data=2)
    forced = mesh_lib.make_mesh(4, 2, 1, dcn_data=2).devices  # CPU devices name no slice: halves
    assert {d.id for d in forced[:2].flat} == {0, 1, 2, 3}


def spec(axes, shape, rules=mesh_lib.TRAIN, sizes=(2, 2, 2)):
    return mesh_lib.partition_spec("w", axes, shape, mesh_lib.make_mesh(*sizes), rules)


def test_rules_translate():
    assert spec(("layers", "embed", "heads", "head_dim"), (3, 4, 2, 5)) == P(None, "fsdp", "tensor")
    assert spec(("layers", "embed", "ff"), (3, 4, 2), mesh_lib.DECODE) == P(None, None, "tensor")
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
    mesh = mesh_lib.make_mesh(2, 2, 2)
    tree = {"w": jnp.arange(16.0).reshape(4, 4), "n": jnp.arange(4)}
    start = {
        "w": mesh_lib.named_sharding(mesh, ("embed", "ff"), (4, 4), mesh_lib.TRAIN),
        "n": mesh_lib.replicated(mesh),
    }
    target = {**start, "w": mesh_lib.named_sharding(mesh, ("embed", "ff"), (4, 4), mesh_lib.DECODE)}
    placed = jax.device_put(tree, start)
    moved = mesh_lib.reshard(placed, target, jnp.bfloat16)
    before = mesh_lib._resharder.cache_info().misses
    mesh_lib.reshard(placed, {**target}, jnp.bfloat16)
    assert mesh_lib._resharder.cache_info().misses == before
    assert moved["w"].sharding.spec == P(None, "tensor") and moved["w"].dtype == jnp.bfloat16
    assert moved["n"].dtype == tree["n"].dtype
    np.testing.assert_array_equal(moved["w"].astype(jnp.float32), tree["w"])
    assert mesh_lib.reshard(placed, target)["w"].dtype == jnp.float32
    mixed = mesh_lib.reshard(placed, target, {"w": jnp.dtype("bfloat16"), "n": None})
    assert mixed["w"].dtype == jnp.bfloat16


def test_constrain_pins_under_a_mesh_and_is_nothing_without():
    x = jnp.zeros((8, 3, 4))
    assert mesh_lib.constrain(x, "batch", None, None) is x
    mesh = mesh_lib.make_mesh(2, 2, 2)
    with jax.set_mesh(mesh):
        pinned = jax.jit(lambda x: mesh_lib.constrain(x, "batch", None, None) + 1)(x)
        narrow = jax.jit(lambda x: mesh_lib.constrain(x, "batch", None, None) + 1)(x[:3])
    assert pinned.sharding.is_equivalent_to(mesh_lib.batch_sharding(mesh), 3)
    assert narrow.shape == (3, 3, 4)


CFG = ModelConfig(
    vocab_size=64, layers=2, embed=32, heads=8, kv_heads=2, head_dim=8, ff=32, mlp="swiglu", qkv_bias=True,
    smear_keys=False, rope_fraction=1.0, remat="full", scan_unroll=1,
)  # fmt: skip
SPLITS = [(d, f, 8 // d // f, 1) for d in (1, 2, 4, 8) for f in (1, 2, 4, 8) if 8 % (d * f) == 0]
# Long rows: with heads that are cut, with weights that are cut, and alone.
LONG = [(1, 2, 2, 2), (2, 2, 1, 2), (1, 1, 1, 8), (1, 4, 1, 2), (1, 1, 2, 4)]
assert len(SPLITS) == 10


def packed_rows(rows=8, length=32):
    rng = np.random.default_rng(3)
    segments = np.repeat(np.array([[1] * 15 + [2] * 12 + [0] * 5]), rows, 0).astype(np.int32)
    positions = np.tile(np.r_[np.arange(15), np.arange(12), np.zeros(5)], (rows, 1)).astype(np.int32)
    ids, targets = rng.integers(0, CFG.vocab_size, (2, rows, length), dtype=np.int32)
    mask = (rng.random((rows, length)) < 0.5) & (segments > 0)
    return {"ids": ids, "targets": targets, "positions": positions, "segments": segments, "loss_mask": mask}


def update_rows():
    """[M, R, T] = [2, 8, 32]: two micro-batches, log-probs near the policy's so that some ratios clip."""
    rng, rows = np.random.default_rng(4), packed_rows(16)
    old = np.where(rows["loss_mask"], rng.normal(-4.2, 0.4, (16, 32)), 0).astype(np.float32)
    advantages = rng.normal(size=(16, 1)).astype(np.float32) * rows["loss_mask"]
    update = UpdateBatch(
        **{name: rows[name] for name in ("ids", "positions", "segments", "targets")},
        mask=rows["loss_mask"], sampler_logp=old, old_logp=old, versions=np.zeros((16, 32), np.int32),
        advantages=advantages,
    )  # fmt: skip
    return jax.tree.map(lambda x: x.reshape(2, 8, 32), update)


def settings():
    from configs import dapo as page

    config = page.get_config().dapo
    config.row_lengths = (32,)
    return config


def trained(sizes, cfg=CFG):
    """(SFT loss of two steps, parameters after them, DAPO gradients) on one mesh; each program compiled once."""
    data, fsdp, tensor, sequence = sizes
    count = data * fsdp * tensor * sequence
    mesh = mesh_lib.make_mesh(data, fsdp, tensor, jax.devices()[:count], sequence=sequence)
    policy = Policy(cfg, mesh)
    tx = optimizer_lib.build_optimizer({"kind": "adamw", "learning_rate": 1e-2, "eps": 1e-3}, policy.abstract_trainable)
    with jax.set_mesh(mesh):
        params = policy.init_params(0)
        state = state_lib.create_state(policy, tx, params)
        step, losses = sft.make_step(policy, tx, 1), []
        for _ in range(2):
            state, sums = step(state, jax.device_put(packed_rows(), mesh_lib.batch_sharding(mesh)), {})
            losses.append(float(sums["loss"][0] / sums["loss"][1]))
        rows = updates.update_sharding(mesh)
        loss = lambda p, b: dapo_programs.loss_fn(policy, settings(), p, b)  # noqa: E731
        gradients = jax.jit(
            lambda p, b: jax.tree.map(lambda g: g / b.mask.sum(), state_lib.accumulate(loss, p, b)[0]),
            in_shardings=(policy.trainable_shardings, rows),
            out_shardings=policy.trainable_shardings,
        )
        for _ in range(2):
            found = gradients(params, jax.device_put(update_rows(), rows))
        _, step_sums = dapo_step(policy, tx, params)
    assert step._cache_size() == gradients._cache_size() == 1
    return losses, jax.device_get(state.params), jax.device_get(found), step_sums


def dapo_step(policy, tx, params):
    old_logprobs, step = dapo_programs.make_programs(policy, settings(), tx)
    state = state_lib.create_state(policy, tx, params)
    for _ in range(2):
        update = jax.device_put(update_rows(), updates.update_sharding(policy.mesh))
        old_logprobs(state.params, update, {})
        state, sums = step(state, update, {})
    assert step._cache_size() == old_logprobs._cache_size() == 1
    return state, {name: float(total) for name, (total, _) in sums.items()}


def assert_same(sizes, alone, cfg=CFG):
    losses, params, gradients, sums = trained(sizes, cfg)
    np.testing.assert_allclose(losses, alone[0], atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5), gradients, alone[2])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=3e-5), params, alone[1])
    for name, value in alone[3].items():
        assert np.isclose(sums[name], value, rtol=1e-4, atol=1e-4), name


@pytest.fixture(scope="module")
def alone():
    return trained((1, 1, 1, 1))


@pytest.mark.slow
@pytest.mark.parametrize("sizes", SPLITS + LONG, ids=str)
def test_every_split_of_eight_changes_no_number(sizes, alone):
    """(data, fsdp, tensor, sequence): SFT losses, DAPO gradients and step as on one device, one compilation each."""
    assert_same(sizes, alone)


def test_a_long_row_is_cut_over_the_sequence_axis():
    """What a layer keeps for the backward pass is a share of the row, not all of it."""
    cfg = dataclasses.replace(CFG, layers=1)
    mesh = mesh_lib.make_mesh(1, 1, 2, sequence=4)
    ids = jax.ShapeDtypeStruct((2, 64), jnp.int32, sharding=mesh_lib.replicated(mesh))
    with jax.set_mesh(mesh):
        hidden = jax.jit(lambda p, i: transformer.forward(cfg, p, i, i, i)).lower(
            transformer.abstract_params(cfg, mesh), ids
        )
        text = hidden.compile().as_text()
    assert "f32[2,16,32]" in text and "f32[2,64,32]{" not in text.split("ENTRY")[1].split("all-gather")[0]


@pytest.mark.parametrize("steps", [1, 4])
def test_appending_gathers_nothing_where_shards_share_heads(steps):
    """Two key-value heads on four tensor shards: each keeps both, and none asks another for what it holds."""
    cfg = ModelConfig(
        vocab_size=64, layers=2, embed=96, heads=12, kv_heads=2, head_dim=16, ff=128, mlp="swiglu", smear_keys=False
    )
    mesh = mesh_lib.make_mesh(fsdp=2, tensor=4)
    cache = kv.abstract_cache(cfg, 8, (64, 128), mesh)
    rows = mesh_lib.named_sharding(mesh, ("batch", None), (8, steps), mesh_lib.DECODE, "ids")
    with jax.set_mesh(mesh):
        program = jax.jit(
            functools.partial(transformer.extend, cfg), out_shardings=(None, jax.tree.map(lambda s: s.sharding, cache))
        )
        compiled = program.lower(
            transformer.abstract_params(cfg, mesh, mesh_lib.DECODE),
            cache,
            jax.ShapeDtypeStruct((8, steps), jnp.int32, sharding=rows),
            jax.ShapeDtypeStruct((8,), jnp.int32, sharding=cache.lengths.sharding),
        ).compile()
    assert "all-reduce(" in compiled.as_text() and "all-gather" not in compiled.as_text()
