"""Backends of training attention against plain numpy: tiles in XLA, splash interpreted, cuDNN's call computed by XLA,
and on a GPU.

On a machine with a GPU the last test runs this file as a program on it; elsewhere it is skipped.
"""

import dataclasses
import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from masksearch_jax.model import blocked_attention, packed_attention, transformer
from masksearch_jax.model.config import ModelConfig
from masksearch_jax.runtime import mesh as mesh_lib

ROOT = Path(__file__).parent.parent.parent
CFG = ModelConfig(
    vocab_size=8, layers=1, heads=4, kv_heads=2, head_dim=16, query_scalar=50.0, local_layers=(0,), window=70
)


def arrays(length=256, heads=4, kv_heads=2, width=16):
    """q, k, v, segments of two packed rows, and weights of a loss that padding does not enter."""
    rng = np.random.default_rng(0)
    q, weight = rng.normal(size=(2, 2, heads, length, width)).astype(np.float32)
    k, v = rng.normal(size=(2, 2, kv_heads, length, width)).astype(np.float32)
    index = np.arange(length)
    segments = np.stack([1 + (index >= 100), 1 + (index >= 30) + (index >= 190)]) * (index < length - 20)
    return q, k, v, segments.astype(np.int32), weight * (segments > 0)[:, None, :, None]


def naive(cfg, q, k, v, segments, local):
    """float64 [B, N, S, H], a head at a time."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    index, group, out = np.arange(q.shape[2]), q.shape[1] // k.shape[1], np.zeros(q.shape)
    distance = index[:, None] - index[None, :]
    for b, n in np.ndindex(q.shape[:2]):
        seen = (segments[b][:, None] == segments[b][None, :]) & (distance >= 0)
        if local:
            seen &= distance < cfg.window
        scores = q[b, n] @ k[b, n // group].T / np.sqrt(cfg.query_scalar)
        if cfg.attention_softcap:
            scores = cfg.attention_softcap * np.tanh(scores / cfg.attention_softcap)
        weights = np.where(seen, np.exp(scores - scores.max()), 0)
        out[b, n] = weights / weights.sum(1, keepdims=True) @ v[b, n // group]
    return out


def value_and_gradients(attend, q, k, v, segments, weight, *local):
    """(outputs, gradients by q, k, v) of a weighted sum."""

    def loss(q, k, v, *local):
        out = attend(q, k, v, segments, *local)
        return (out * weight).sum(), out

    (_, out), gradients = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(q, k, v, *local)
    return jax.device_get((out, gradients))


def by(backend, cfg):
    cfg = dataclasses.replace(cfg, attention=backend)

    def attend(q, k, v, segments, local=None):
        return packed_attention.attend_packed(cfg, q, k, v, segments=segments, local=local)

    return attend


def assert_same(cfg, attend, mesh=None, locals_=(None,), **shape):
    """Outputs are numpy's, gradients those of plain attention; padding is finite."""
    q, k, v, segments, weight = arrays(**shape)
    real = (segments > 0)[:, None, :, None]
    for local in locals_:
        data = () if local is None else (jnp.array(local),)
        with jax.set_mesh(mesh or mesh_lib.make_mesh(1, 1, 1)):
            out, gradients = value_and_gradients(attend, q, k, v, segments, weight, *data)
        plain, expected = value_and_gradients(by("xla", cfg), q, k, v, segments, weight, *data)
        assert np.isfinite(out).all()
        np.testing.assert_allclose(plain * real, naive(cfg, q, k, v, segments, local) * real, atol=3e-6)
        np.testing.assert_allclose(out * real, plain * real, atol=3e-6)
        jax.tree.map(functools.partial(np.testing.assert_allclose, atol=2e-5), gradients, expected)


def test_splash_equals_plain_attention():
    assert_same(CFG, by("splash", CFG))


def test_splash_with_softcap_in_local_and_global_layers():
    cfg = dataclasses.replace(CFG, attention_softcap=3.0)
    assert_same(cfg, by("splash", cfg), locals_=(True, False))


# (data, fsdp, tensor), sequence: rows and heads cut; fewer key-value heads than shards; queries cut, with a window.
@pytest.mark.parametrize(
    ("sizes", "sequence", "local"), [((1, 2, 2), 1, None), ((2, 1, 4), 1, None), ((1, 1, 2), 2, True)]
)
def test_splash_on_a_mesh(sizes, sequence, local):
    mesh = mesh_lib.make_mesh(*sizes, sequence=sequence)
    assert_same(CFG, by("splash", CFG), mesh, (local,))


@pytest.mark.parametrize("length", [256, 200, 90])  # two tiles; one that is not whole; less than one
def test_tiles_equal_plain_attention(length):
    assert_same(CFG, by("blocked", CFG), length=length)


def test_tiles_with_softcap_in_local_and_global_layers():
    cfg = dataclasses.replace(CFG, attention_softcap=3.0)
    assert_same(cfg, by("blocked", cfg), locals_=(True, False), length=300)


# As for splash: rows and heads cut; fewer key-value heads than shards; queries cut, with and without a window.
@pytest.mark.parametrize(
    ("sizes", "sequence", "local"),
    [((1, 2, 2), 1, None), ((2, 1, 4), 1, None), ((1, 1, 2), 2, True), ((1, 1, 2), 2, None)],
)
def test_tiles_on_a_mesh(sizes, sequence, local):
    assert_same(CFG, by("blocked", CFG), mesh_lib.make_mesh(*sizes, sequence=sequence), (local,), length=600)


def trees(length, nodes, seeds=(0, 1)):
    """Rows of random trees in preorder: (ends, positions, segments), and which tokens see which, by their parents."""
    rows = []
    for seed in seeds:
        rng, path, parents, depths = np.random.default_rng(seed), [], [], []
        for node in range(nodes):
            if rng.random() < 0.02:
                path = path[: rng.integers(0, len(path) + 1)]
            parents.append(path[-1] if path else None)
            depths.append(len(path))
            path = [*path, node]
        seen = np.eye(length, dtype=bool)
        for node, parent in enumerate(parents):
            if parent is not None:
                seen[node] |= seen[parent]
        ends = np.arange(1, length + 1)
        for node in range(nodes):
            ends[node] = 1 + np.flatnonzero(seen[:, node]).max()
        segments = np.where(np.arange(length) < nodes, 1, 0)
        rows.append((ends, np.pad(depths, (0, length - nodes)), segments, seen))
    ends, positions, segments, seen = (np.stack(each) for each in zip(*rows, strict=True))
    return ends.astype(np.int32), positions.astype(np.int32), segments.astype(np.int32), seen


def of_trees(backend, cfg, ends, positions):
    cfg = dataclasses.replace(cfg, attention=backend)

    def attend(q, k, v, segments, local=None):
        return packed_attention.attend_packed(
            cfg, q, k, v, segments=segments, local=local, ends=ends, positions=positions
        )

    return attend


@pytest.mark.parametrize(
    ("sizes", "sequence", "local"),
    [((1, 1, 1), 1, True), ((1, 1, 1), 1, None), ((1, 2, 2), 1, False), ((1, 1, 2), 2, True)],
)
def test_rows_of_trees_in_tiles_and_plain(sizes, sequence, local):
    """A token sees its ancestors alone, the window counts depths, and tiles give the same gradients."""
    cfg, length = dataclasses.replace(CFG, attention_softcap=3.0), 600
    ends, positions, segments, seen = trees(length, 560)
    q, k, v, _, weight = arrays(length=length)
    data, real = () if local is None else (jnp.array(local),), (segments > 0)[:, None, :, None]
    weight = np.broadcast_to(np.random.default_rng(1).normal(size=weight.shape), weight.shape) * real
    plain, expected = value_and_gradients(of_trees("xla", cfg, ends, positions), q, k, v, segments, weight, *data)
    with jax.set_mesh(mesh_lib.make_mesh(*sizes, sequence=sequence)):
        out, found = value_and_gradients(of_trees("blocked", cfg, ends, positions), q, k, v, segments, weight, *data)
    assert np.isfinite(out).all()
    if local:
        seen = seen & (positions[:, :, None] - positions[:, None, :] < cfg.window)
    for b, n in np.ndindex(q.shape[:2]):
        scores = 3.0 * np.tanh(q[b, n].astype(np.float64) @ k[b, n // 2].T / np.sqrt(cfg.query_scalar) / 3.0)
        weights = np.where(seen[b], np.exp(scores), 0)
        naive = weights / weights.sum(1, keepdims=True) @ v[b, n // 2]
        np.testing.assert_allclose(plain[b, n] * real[b, 0], naive * real[b, 0], atol=3e-6)
    np.testing.assert_allclose(out * real, plain * real, atol=3e-6)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=2e-5), found, expected)


@pytest.mark.parametrize("window", [1 << 30, 40])
def test_a_tile_of_a_tree_looks_at_all_tiles_that_it_sees_and_at_few_others(window):
    ends, positions, segments, seen = trees(512, 480, seeds=range(8))
    seen &= (positions[:, :, None] - positions[:, None, :] < window) & (segments[:, :, None] > 0)
    tiled = [x.reshape(8, 16, 32) for x in (positions, ends)]
    lists = np.asarray(blocked_attention._lists(tiled[0], np.stack(tiled, axis=2), 0, window, 32))
    needed = seen.reshape(8, 16, 32, 16, 32).any(axis=(2, 4))
    looked = np.zeros_like(needed)
    for row, tile in np.ndindex(8, 16):
        count, tiles = lists[row, tile, 0], lists[row, tile, 1:]
        assert (np.diff(tiles[:count]) > 0).all()
        looked[row, tile, tiles[:count]] = True
    assert not (needed & ~looked).any()
    assert looked.sum() < 0.8 * 8 * 16 * 17 / 2


def test_tiles_in_bfloat16_keep_to_its_precision():
    q, k, v, segments, weight = arrays()
    out, exact = value_and_gradients(by("xla", CFG), q, k, v, segments, weight)
    low = (jnp.asarray(x, jnp.bfloat16) for x in (q, k, v))
    found = value_and_gradients(by("blocked", BF16), *low, segments, weight)
    real = (segments > 0)[:, None, :, None]
    for a, b in [(found[0] * real, out * real), *zip(found[1], exact, strict=True)]:
        assert a.dtype == jnp.bfloat16 or a.dtype == np.float32
        assert np.abs(np.float32(a) - b).max() < 0.02 * np.abs(b).max()


def test_tiles_hold_no_scores():
    """Temporaries of forward and backward pass are less than the scores of one head of one row."""
    length = 1024
    q, k, v, segments, weight = arrays(length=length)

    def temporaries(backend):
        def loss(q, k, v):
            return (by(backend, CFG)(q, k, v, segments) * weight).sum()

        compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(q, k, v).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    scores = 4 * length * length
    assert temporaries("xla") > 8 * scores > 8 * temporaries("blocked")


def test_tiles_that_nobody_sees_are_skipped():
    index = np.arange(512)
    segments = np.where(index < 384, 1 + index // 128, 0)[None].astype(np.int32)
    tiles = segments.reshape(1, 4, 128)

    def ranges(window):
        return blocked_attention._ranges(tiles, tiles, 0, window, 128)[0].tolist()

    assert ranges(1 << 30) == [[0, 1], [1, 2], [2, 3], [0, 0]]  # each its own segment; padding nothing
    tiles = np.ones_like(tiles)
    assert ranges(1 << 30) == [[0, 1], [0, 2], [0, 3], [0, 4]]
    assert ranges(129) == [[0, 1], [0, 2], [1, 3], [2, 4]]


def cudnn_by_xla(cfg):
    """The call that cuDNN gets, computed by XLA."""

    def attend(q, k, v, segments, local=None):
        return packed_attention._cudnn(cfg, q, k, v, segments, local, implementation="xla")

    return attend


@pytest.mark.parametrize(("sizes", "local"), [((1, 1, 1), None), ((1, 2, 4), True), ((1, 2, 4), False)])
def test_what_cudnn_is_asked_equals_plain_attention(sizes, local):
    assert_same(CFG, cudnn_by_xla(CFG), mesh_lib.make_mesh(*sizes), (local,))


def test_a_step_for_cuda_holds_cudnns_kernels(monkeypatch):
    """Lowered for CUDA without one: only cuDNN's version is made up, which its lowering asks for."""
    fused = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(fused, "check_cudnn_version", lambda: 91002)
    q, k, v, segments, _ = arrays()

    def loss(q, k, v):
        return packed_attention._cudnn(CFG, q, k, v, segments, jnp.array(True)).astype(jnp.float32).sum()

    q, k, v = (jnp.asarray(x, jnp.bfloat16) for x in (q, k, v))
    lowered = jax.jit(jax.grad(loss, (0, 1, 2))).trace(q, k, v).lower(lowering_platforms=("cuda",))
    text = lowered.as_text()
    for call in ("__cudnn$fmhaScaleBiasSoftmax", "__cudnn$fmhaScaleBiasSoftmaxBackward"):
        assert f"@{call}(" in text
    told = text.replace("\\22", '"')  # MLIR's way to write a quote
    assert told.count('"mask_type": "CAUSAL"') == 2 and told.count(f'"fmha_scale": {50**-0.5}') == 2


@pytest.mark.slow
def test_a_model_with_local_layers_and_remat():
    """Scanned, recomputed in the backward pass, with softcap: hidden states and gradients of plain attention."""
    cfg = ModelConfig(
        vocab_size=16, layers=2, embed=16, heads=2, kv_heads=1, head_dim=8, ff=16, local_layers=(0,), window=40,
        local_rope_base=100.0, attention_softcap=5.0, remat="full", scan_unroll=1,
    )  # fmt: skip
    ids = np.random.default_rng(1).integers(0, 16, (1, 128), dtype=np.int32)
    segments = np.repeat([[1, 2, 0]], [50, 60, 18], axis=1).astype(np.int32)
    positions = np.r_[np.arange(50), np.arange(60), np.arange(18)][None].astype(np.int32)

    @functools.partial(jax.jit, static_argnums=0)
    def step(cfg, params):
        def loss(params):
            hidden = transformer.forward(cfg, params, ids, positions, segments)
            return (jnp.sin(jnp.arange(16)) * hidden * (segments > 0)[..., None]).sum(), hidden

        return jax.value_and_grad(loss, has_aux=True)(params)

    params = transformer.init_params(cfg, 0, mesh_lib.make_mesh(1, 1, 1))
    (_, expected), gradients = step(cfg, params)
    (_, hidden), found = step(dataclasses.replace(cfg, attention="splash"), params)
    np.testing.assert_allclose(hidden[:, :110], expected[:, :110], atol=1e-5)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-4), found, gradients)
    (_, hidden), found = step(dataclasses.replace(cfg, attention="blocked"), params)
    np.testing.assert_allclose(hidden[:, :110], expected[:, :110], atol=1e-5)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-4), found, gradients)


def devices(platform, sequence=1):
    """As much of a mesh as `choose` asks for."""
    return SimpleNamespace(
        shape={"sequence": sequence},
        abstract_mesh=SimpleNamespace(abstract_device=SimpleNamespace(platform=platform)),
    )


BF16 = dataclasses.replace(CFG, dtype="bfloat16")


@pytest.mark.parametrize(
    ("cfg", "mesh", "lengths", "chosen"),
    [
        (BF16, devices("tpu"), (256, 4096), "splash"),
        (CFG, devices("tpu", sequence=2), (256,), "splash"),
        (BF16, devices("tpu", sequence=4), (256,), "xla"),
        (BF16, devices("tpu"), (256, 200), "xla"),
        (BF16, devices("gpu"), (256,), "cudnn"),
        (CFG, devices("gpu"), (256,), "xla"),
        (BF16, devices("cpu"), (256,), "xla"),
        (CFG, devices("cpu"), (640,), "blocked"),
        (CFG, devices("cpu"), (256, 640), "blocked"),
    ],
)
def test_auto_takes_what_can(cfg, mesh, lengths, chosen):
    assert packed_attention.choose(dataclasses.replace(cfg, attention="auto"), mesh, lengths).attention == chosen
    assert packed_attention.choose(cfg, mesh, lengths) == cfg  # plain by default, whatever the devices


@pytest.mark.parametrize(
    ("backend", "change", "mesh", "length", "says"),
    [
        ("splash", {}, devices("cpu"), 256, "kernels are for TPUs and the devices are cpu"),
        ("splash", {}, devices("tpu"), 200, "row length of 200 is no multiple of 128"),
        ("splash", {}, devices("tpu", sequence=4), 256, r"256 is no multiple of 512 on mesh.sequence = 4"),
        ("cudnn", {}, devices("tpu"), 256, "kernels are for GPUs and the devices are tpu"),
        ("cudnn", {"dtype": "float32"}, devices("gpu"), 256, "not in model.dtype = 'float32'"),
        ("cudnn", {"attention_softcap": 30.0}, devices("gpu"), 256, "model.attention_softcap = 30.0"),
        ("cudnn", {"head_dim": 12}, devices("gpu"), 256, "model.head_dim = 12"),
        ("cudnn", {}, devices("gpu"), 255, r"row length of \[255\] is odd"),
        ("cudnn", {}, devices("gpu", sequence=2), 256, "mesh.sequence = 2"),
    ],
)
def test_a_backend_that_cannot_says_why(backend, change, mesh, length, says):
    cfg = dataclasses.replace(BF16, attention=backend, **change)
    with pytest.raises(ValueError, match=f"model.attention = '{backend}': .*{says}.*'xla'"):
        packed_attention.choose(cfg, mesh, (length,))


@pytest.mark.parametrize("platform", ["cpu", "tpu", "gpu"])
def test_rows_of_trees_are_for_backends_that_take_any_mask(platform):
    mesh, auto = devices(platform), dataclasses.replace(BF16, attention="auto")
    assert packed_attention.choose(auto, mesh, (1024,), trees=True).attention == "blocked"
    assert packed_attention.choose(auto, mesh, (256,), trees=True).attention == "xla"
    for backend in ("splash", "cudnn"):
        cfg = dataclasses.replace(BF16, attention=backend)
        with pytest.raises(ValueError, match=f"model.attention = '{backend}': .*dapo.share_prefixes = True; .*'auto'"):
            packed_attention.choose(cfg, mesh, (1024,), trees=True)


def test_rows_of_another_length_are_refused_where_they_are_computed():
    q, k, v, segments, _ = arrays(length=200)
    with pytest.raises(ValueError, match="row length of 200 is no multiple of 128"):
        by("splash", CFG)(q, k, v, segments)
    with pytest.raises(ValueError, match="kernels are for GPUs"):
        by("cudnn", BF16)(q, k, v, segments)


def test_every_recipe_takes_splash_on_its_slice():
    from configs import dapo, recipes
    from masksearch_jax.model.config import from_config

    for name in recipes.RECIPES:
        page = dapo.get_config(name)
        lengths = (page.sft.row_length, *page.dapo.row_lengths)
        assert packed_attention.choose(from_config(page.model), devices("tpu"), lengths).attention == "splash", name


def largest_differences(implementation):
    """Of bfloat16 outputs and gradients to float32 plain attention, as shares of the largest entry."""
    q, k, v, segments, weight = arrays(width=64)
    cfg = dataclasses.replace(BF16, head_dim=64)
    _, exact = out, _ = value_and_gradients(by("xla", cfg), q, k, v, segments, weight, jnp.array(True))
    low = (jnp.asarray(x, jnp.bfloat16) for x in (q, k, v))

    def attend(q, k, v, segments, local):
        return packed_attention._cudnn(cfg, q, k, v, segments, local, implementation)

    found = value_and_gradients(attend, *low, segments, weight, jnp.array(True))
    real = (segments > 0)[:, None, :, None]
    pairs = [(found[0] * real, out * real), *zip(found[1], exact, strict=True)]
    return [float(np.abs(np.float32(a) - b).max() / np.abs(b).max()) for a, b in pairs]


def test_bfloat16_keeps_to_its_precision():
    assert max(largest_differences("xla")) < 0.02


@pytest.mark.skipif(not Path("/dev/nvidiactl").exists(), reason="no NVIDIA GPU on this machine")
def test_cudnn_on_a_gpu():
    environment = os.environ | {"JAX_PLATFORMS": "cuda", "PYTHONPATH": str(ROOT)}
    environment.pop("JAX_DISABLE_MOST_OPTIMIZATIONS", None)
    done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert max(json.loads(done.stdout)) < 0.02


if __name__ == "__main__":
    print(json.dumps(largest_differences("cudnn")))
