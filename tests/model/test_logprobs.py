"""Chunked log-probabilities and entropies against the whole log-softmax, values and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import CONFIGS, random_ids, scattered_params

from masksearch_jax.model import transformer
from masksearch_jax.model.logprobs import token_logprobs
from masksearch_jax.runtime import mesh as mesh_lib

jit_logprobs = jax.jit(token_logprobs, static_argnums=0, static_argnames="chunk")


def problem(cfg, rows=3, steps=7):
    hidden = np.random.default_rng(1).normal(size=(rows, steps, cfg.embed)).astype(np.float32)
    return scattered_params(cfg), hidden, random_ids(cfg, rows, steps)


def whole(cfg, params, hidden, targets, temperature):
    logp = jax.nn.log_softmax(transformer.unembed(cfg, params, hidden) / temperature)
    return jnp.take_along_axis(logp, targets[..., None], -1)[..., 0], -(jnp.exp(logp) * logp).sum(-1)


@pytest.mark.parametrize(("name", "chunk"), [("tiny", 1), ("qwen3", 6), ("qwen3", 4096)])
def test_equals_the_whole_log_softmax(name, chunk):
    cfg = CONFIGS[name]
    params, hidden, targets = problem(cfg)

    def scalar(function, params, hidden):
        logp, entropy = function(cfg, params, hidden, targets, 0.7)
        return (logp * jnp.arange(7) + 0.3 * entropy).sum(), (logp, entropy)

    chunked = functools.partial(token_logprobs, chunk=chunk)
    gradients = [
        jax.jit(jax.grad(functools.partial(scalar, f), argnums=(0, 1), has_aux=True))(params, hidden)
        for f in (chunked, whole)
    ]
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=2e-5), *gradients)
    logp, entropy = gradients[0][1]
    assert logp.shape == entropy.shape == targets.shape and logp.dtype == entropy.dtype == jnp.float32


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_unwanted_targets_give_zero_and_the_wanted_ones_do_not_change(share):
    cfg = CONFIGS["tiny"]
    params, hidden, targets = problem(cfg, rows=3, steps=29)
    wanted = np.random.default_rng(2).random(targets.shape) < share

    def scalar(function, params, hidden):
        logp, entropy = function(params, hidden)
        return jnp.where(wanted, logp * jnp.arange(29) + 0.3 * entropy, 0).sum(), (logp, entropy)

    def some(params, hidden):
        return token_logprobs(cfg, params, hidden, targets, 0.7, wanted=wanted)

    def every(params, hidden):
        return tuple(jnp.where(wanted, x, 0) for x in whole(cfg, params, hidden, targets, 0.7))

    found, expected = (
        jax.jit(jax.grad(functools.partial(scalar, f), argnums=(0, 1), has_aux=True))(params, hidden)
        for f in (some, every)
    )
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=3e-5, rtol=1e-5), found, expected)


def test_a_piece_without_a_wanted_target_is_never_computed():
    cfg = CONFIGS["tiny"]
    params, hidden, targets = problem(cfg, rows=2, steps=32)
    wanted = np.zeros((2, 32), bool)
    wanted[:, 20:24] = True  # one piece of 4 of the 8; were the others computed, their NaN would reach the gradient
    hidden[:, 24:] = np.nan

    def loss(params, hidden):
        return token_logprobs(cfg, params, hidden, targets, wanted=wanted)[0].sum()

    gradient = jax.jit(jax.grad(loss))(params, hidden)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_any_number_of_leading_axes():
    cfg = CONFIGS["tiny"]
    params, hidden, targets = problem(cfg)
    expected = jit_logprobs(cfg, params, hidden, targets)[0]
    np.testing.assert_allclose(jit_logprobs(cfg, params, hidden[1], targets[1], chunk=3)[0], expected[1], atol=1e-6)
    deep = jit_logprobs(cfg, params, hidden[:, None], targets[:, None], chunk=3)[0]
    np.testing.assert_allclose(deep[:, 0], expected, atol=1e-6)


def test_no_array_holds_the_logits_of_all_tokens():
    cfg = CONFIGS["tiny"]
    params, hidden, targets = problem(cfg, rows=2, steps=64)

    def loss(params, hidden):
        return token_logprobs(cfg, params, hidden, targets, chunk=16)[0].sum()

    text = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(params, hidden).as_text()
    assert f"2x8x{cfg.vocab_size}xf32" in text
    for whole_logits in (f"2x64x{cfg.vocab_size}xf32", f"8x2x8x{cfg.vocab_size}xf32"):
        assert whole_logits not in text


def test_sharded_equals_unsharded():
    cfg = CONFIGS["tiny"]
    params, hidden, targets = problem(cfg, rows=4, steps=8)
    expected = jit_logprobs(cfg, params, hidden, targets)
    mesh = mesh_lib.make_mesh(2, 2, 2)
    rows = mesh_lib.batch_sharding(mesh)
    placed = jax.device_put(params, transformer.param_shardings(cfg, mesh))
    run = jax.jit(functools.partial(token_logprobs, cfg, chunk=8), out_shardings=(rows, rows))
    got = run(placed, jax.device_put(hidden, rows), jax.device_put(targets, rows))
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), got, expected)
    some = jnp.arange(8)[None, :] % jnp.array([[2], [3], [4], [9]]) == 1
    run = jax.jit(lambda p, h, t, w: token_logprobs(cfg, p, h, t, wanted=w)[0], out_shardings=rows)
    got = run(placed, *(jax.device_put(x, rows) for x in (hidden, targets, some)))
    np.testing.assert_allclose(got, jnp.where(some, expected[0], 0), atol=1e-5)
