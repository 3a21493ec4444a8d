"""Adapters: the sum they compute, what gets a gradient, the frozen base, and the same numbers on every mesh."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import CONFIGS, one_device, random_ids

from masksearch_jax.model import kv_cache, lora, transformer
from masksearch_jax.model.config import LINEAR, LoraConfig, from_config, lora_from_config
from masksearch_jax.runtime import mesh as mesh_lib

RANK, ALPHA = 3, 7.0
KINDS = ("", "int8", "nf4")


def adapted(name, kind="", **settings):
    if kind:
        pytest.importorskip("qwix", reason="the extra qlora is not installed")
    remat = "full" if kind else "none"
    return dataclasses.replace(
        CONFIGS[name], lora=LoraConfig(RANK, ALPHA, base_quantisation=kind, **settings), remat=remat
    )


def scattered(cfg, mesh=None):
    """Parameters whose B is not zero."""
    params, rng = transformer.init_params(cfg, 0, mesh or one_device()), np.random.default_rng(1)

    def move(x):
        return jax.device_put(np.asarray(x) + rng.normal(scale=0.2, size=x.shape).astype(np.float32), x.sharding)

    return params | {"adapters": jax.tree.map(move, params["adapters"])}


def rows(cfg, count=2, steps=7):
    return random_ids(cfg, count, steps), np.tile(np.arange(steps), (count, 1)), np.ones((count, steps), np.int32)


forward = jax.jit(transformer.forward, static_argnums=0)


@pytest.mark.parametrize("name", CONFIGS)
def test_an_adapter_adds_its_product_to_every_linear_map(name):
    """Against weights that numpy merged in float64, written out for each map."""
    cfg = adapted(name)
    params = scattered(cfg)
    wide = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    subscripts = {"q": "ldr,lrnh->ldnh", "o": "lnhr,lrd->lnhd", "up": "ldr,lrf->ldf", "down": "lfr,lrd->lfd"}
    subscripts |= {"k": subscripts["q"], "v": subscripts["q"], "gate": subscripts["up"]}
    expected, seen = {k: v for k, v in wide.items() if k != "adapters"}, 0
    for part in ("attention", "mlp"):
        for key in set(expected["blocks"][part]) & set(LINEAR):
            product = np.einsum(subscripts[key], wide["adapters"][key + "_a"], wide["adapters"][key + "_b"])
            expected["blocks"][part][key] = expected["blocks"][part][key] + ALPHA / RANK * product
            seen += 1
    assert 2 * seen == len(params["adapters"]) == (12 if cfg.mlp == "relu2" else 14)
    batch = rows(cfg)
    by_hand = forward(cfg.merged, jax.tree.map(lambda x: x.astype(np.float32), expected), *batch)
    np.testing.assert_allclose(forward(cfg, params, *batch), by_hand, atol=2e-5)
    without = forward(cfg.merged, lora.split(params)[1], *batch)
    assert np.abs(by_hand - without).max() > 0.1  # and it matters
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), lora.merged(cfg, params), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_training_decoding_and_merged_weights_agree(kind):
    cfg = adapted("qwen3", kind)
    params, (ids, positions, segments) = scattered(cfg), rows(cfg)
    trained = forward(cfg, params, ids, positions, segments)
    merged = forward(cfg.merged, lora.merged(cfg, params), ids, positions, segments)
    np.testing.assert_allclose(trained, merged, atol=2e-5)
    extend = jax.jit(transformer.extend, static_argnums=0)
    state = kv_cache.init_cache(cfg, 2, 8, one_device())
    parts = []
    for step in (slice(0, 4), slice(4, 7)):
        hidden, state = extend(cfg, params, state, ids[:, step], jnp.full(2, step.stop - step.start))
        parts.append(hidden)
    np.testing.assert_allclose(np.concatenate(parts, 1), trained, atol=2e-5)


def test_fresh_adapters_leave_the_base_as_it_is():
    cfg = adapted("qwen2")
    params, base = (transformer.init_params(c, 5, one_device()) for c in (cfg, cfg.merged))
    jax.tree.map(np.testing.assert_array_equal, lora.split(params)[1], base)
    batch = rows(cfg)
    np.testing.assert_array_equal(forward(cfg, params, *batch), forward(cfg.merged, base, *batch))
    for name, x in params["adapters"].items():
        bound = np.prod(x.shape[1:-1]) ** -0.5 if name.endswith("_a") else 0
        assert np.abs(x).max() <= bound and (np.std(x) > 0.5 * bound or name.endswith("_b"))
    over = transformer.adapt(cfg, base, 5, one_device())
    jax.tree.map(np.testing.assert_array_equal, over, params)
    assert over["embedding"] is base["embedding"]  # shared, not copied


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_that_of_the_merged_weights_by_the_chain_rule(kind):
    """dA = s dW B^T and dB = s A^T dW in float64, with dW from a model that knows no adapters."""
    cfg = adapted("qwen2", kind)
    params, batch = scattered(cfg), rows(cfg)
    weight = np.random.default_rng(2).normal(size=(2, 7, cfg.embed)).astype(np.float32)

    def loss(c, p):
        return jnp.sum(transformer.forward(c, p, *batch) * weight)

    trained, base = lora.split(params)
    found = jax.jit(jax.grad(lambda t: loss(cfg, lora.join(t, base))))(trained)
    assert set(found) == {"adapters"} and jax.tree.structure(found) == jax.tree.structure(trained)
    whole = jax.jit(jax.grad(functools.partial(loss, cfg.merged)))(lora.merged(cfg, params))["blocks"]
    for name, (inputs, outputs) in {"q": ("d", "nh"), "o": ("nh", "d"), "gate": ("d", "f"), "down": ("f", "d")}.items():
        part = whole["attention" if name in "qkvo" else "mlp"][name]
        d_w, a, b = (np.asarray(x, np.float64) for x in (part, *(trained["adapters"][f"{name}_{i}"] for i in "ab")))
        d_a = ALPHA / RANK * np.einsum(f"l{inputs}{outputs},lr{outputs}->l{inputs}r", d_w, b)
        d_b = ALPHA / RANK * np.einsum(f"l{inputs}{outputs},l{inputs}r->lr{outputs}", d_w, a)
        for got, wanted in ((found["adapters"][f"{name}_a"], d_a), (found["adapters"][f"{name}_b"], d_b)):
            np.testing.assert_allclose(got, wanted, atol=3e-5 * np.abs(wanted).max())


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", [(2, 2, 2, 1), (1, 4, 1, 2)])
def test_no_mesh_changes_a_number(kind, sizes):
    cfg = dataclasses.replace(adapted("qwen2", kind), heads=4, kv_heads=2, embed=32, ff=64)
    mesh = mesh_lib.make_mesh(*sizes[:3], sequence=sizes[3])
    alone, cut = scattered(cfg), scattered(cfg, mesh)
    jax.tree.map(np.testing.assert_array_equal, alone, cut)
    assert lora.fingerprint(lora.split(alone)[1]) == lora.fingerprint(lora.split(cut)[1])
    abstract = transformer.abstract_params(cfg, mesh)
    jax.tree.map(lambda a, x: (a.sharding, a.shape, a.dtype) == (x.sharding, x.shape, x.dtype) or 1 / 0, abstract, cut)
    if sizes[2] == 2:
        assert cut["adapters"]["q_a"].sharding.spec == jax.P(None, "fsdp")
        assert cut["adapters"]["q_b"].sharding.spec == jax.P(None, None, "tensor")
        assert cut["adapters"]["down_a"].sharding.spec == jax.P(None, "tensor")
    batch = rows(cfg, count=8, steps=8)

    def loss(trained, frozen):
        return jnp.sum(jnp.sin(transformer.forward(cfg, lora.join(trained, frozen), *batch)))

    results = []
    for params, on in ((alone, one_device()), (cut, mesh)):
        trained, frozen = lora.split(params)
        with jax.set_mesh(on):
            results.append(jax.device_get(jax.jit(jax.value_and_grad(loss))(trained, frozen)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(a).max()), *results)


@pytest.mark.parametrize(("kind", "share", "bytes_a_number"), [("int8", 0.5 / 127, 1.1), ("nf4", 0.16, 0.6)])
def test_a_quantised_base_is_near_and_small(kind, share, bytes_a_number):
    """The error of a number is at most half a step of its channel (int8), or half the widest gap of NF4."""
    cfg = dataclasses.replace(adapted("qwen2", kind), embed=128, ff=192)
    params = transformer.init_params(cfg, 0, one_device())
    base = transformer.init_params(cfg.merged, 0, one_device())
    for name in ("up", "down"):
        held, exact = params["blocks"]["mlp"][name], np.asarray(base["blocks"]["mlp"][name])
        assert held.qvalue.shape == exact.shape
        largest = np.abs(exact).max(1, keepdims=True)
        if kind == "nf4":
            tiles = exact.reshape(cfg.layers, -1, 64, exact.shape[2])
            largest = np.repeat(np.abs(tiles).max(2), 64, axis=1)
        error = np.abs(np.asarray(lora.dequantised(held)) - exact)
        assert (error <= share * largest * 1.001).all() and error.max() > 0
        bits = {"int8": 8, "uint4": 4}[str(held.qvalue.dtype)]
        assert (bits / 8 * exact.size + held.scale.nbytes) / exact.size < bytes_a_number
    np.testing.assert_array_equal(params["embedding"], base["embedding"])


def test_the_fingerprint_sees_every_number_and_its_place():
    base = {"w": jnp.arange(24.0).reshape(2, 3, 4), "q": jnp.arange(4, dtype=jnp.int8)}
    same = lora.fingerprint(base)
    assert same == lora.fingerprint(jax.tree.map(jnp.copy, base)) and len(same) == 16
    others = [base | {"w": base["w"].at[1, 2, 3].add(2e-6)}, base | {"w": base["w"][:, ::-1]}]
    others += [
        base | {"q": base["q"][::-1]},
        {"v": base["w"], "q": base["q"]},
        base | {"w": base["w"].reshape(2, 4, 3)},
    ]
    assert len({same, *map(lora.fingerprint, others)}) == 6


def test_settings_are_checked_by_name_and_survive_json():
    section = {"rank": 4, "alpha": 8.0, "targets": ["v", "q"], "dtype": "bfloat16", "base_quantisation": "int8"}
    found = lora_from_config(section)
    assert found.targets == ("q", "v") and lora_from_config(section | {"rank": 0}) is None
    with pytest.raises(ValueError, match="lora.base_quantisation = 'int8' with model.remat = 'none'"):
        dataclasses.replace(CONFIGS["tiny"], lora=found)
    cfg = dataclasses.replace(CONFIGS["tiny"], lora=found, remat="dots")
    assert from_config(dataclasses.asdict(cfg)) == cfg
    assert dataclasses.replace(cfg.merged, remat="none") == CONFIGS["tiny"]
    assert from_config(dataclasses.asdict(CONFIGS["tiny"])) == CONFIGS["tiny"]
    for change, says in (
        ({"targets": ["q", "lm_head"]}, "lora.targets"),
        ({"targets": []}, "lora.targets"),
        ({"rank": -1}, "lora.rank"),
        ({"alpha": 0.0}, "alpha"),
        ({"base_quantisation": "int3"}, "lora.base_quantisation = 'int3'"),
    ):
        with pytest.raises(ValueError, match=says):
            lora_from_config(section | change)


def test_only_the_targets_have_adapters():
    cfg = adapted("qwen2", targets=("v", "q"), dtype="bfloat16")
    params = transformer.init_params(cfg, 0, one_device())
    assert {name: x.dtype for name, x in params["adapters"].items()} == dict.fromkeys(
        ("q_a", "q_b", "v_a", "v_b"), jnp.bfloat16
    )
    assert params["blocks"]["attention"]["q"].dtype == jnp.float32


def test_quantisation_without_qwix_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "qwix", None)
    cfg = dataclasses.replace(CONFIGS["tiny"], lora=LoraConfig(RANK, base_quantisation="int8"), remat="full")
    with pytest.raises(ValueError, match=r"'.\[qlora\]'"):
        transformer.init_params(cfg, 0, one_device())
