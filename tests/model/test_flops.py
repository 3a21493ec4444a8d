"""Model FLOPs against what XLA compiles, and against counting one by one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from masksearch_jax.aot import hlo
from masksearch_jax.model import flops, transformer
from masksearch_jax.model.config import LoraConfig, ModelConfig
from masksearch_jax.model.policy import Policy
from masksearch_jax.runtime import mesh as mesh_lib

ROWS, LENGTH = 2, 64
TINY = ModelConfig(vocab_size=512, layers=2, embed=64, heads=2, kv_heads=2, head_dim=32, ff=128)
GROUPED = dataclasses.replace(
    TINY, heads=4, kv_heads=2, mlp="swiglu", tie_embeddings=False, smear_keys=False, scan_unroll=1
)
ADAPTED = dataclasses.replace(GROUPED, lora=LoraConfig(rank=8))


def compiled(cfg, training):
    """The programs of a forward pass with all logits, or of the gradient of their sum by what is trained."""
    policy = Policy(cfg, mesh_lib.make_mesh(1, 1, 1))

    def total(trainable, base, ids):
        params = policy.merge(trainable, base)
        return jnp.sum(jnp.sin(transformer.unembed(cfg, params, policy.forward(params, ids, ids, ids))))

    with jax.set_mesh(policy.mesh):
        ids = jax.ShapeDtypeStruct((ROWS, LENGTH), jnp.int32)
        program = jax.jit(jax.value_and_grad(total) if training else total)
        return program.lower(policy.abstract_trainable, policy.abstract_base, ids).compile()


def all_pairs() -> flops.Load:
    """XLA computes the masked scores too: each token of a row with each other."""
    return flops.Load(ROWS * LENGTH, ROWS * LENGTH**2, 0, ROWS * LENGTH)


@pytest.mark.parametrize("cfg", [TINY, GROUPED, ADAPTED], ids=["tiny", "grouped", "adapted"])
def test_a_forward_pass_has_the_flops_of_the_compiled_program(cfg):
    assert flops.forward(cfg, all_pairs()) == pytest.approx(hlo.work(compiled(cfg, False).as_text()).flops, rel=0.01)


@pytest.mark.parametrize("cfg", [TINY, ADAPTED], ids=["tiny", "adapted"])
def test_a_backward_pass_too(cfg):
    # With adapters XLA leaves out the gradient of the frozen embedding's output; we count it.
    measured = hlo.work(compiled(cfg, True).as_text()).flops
    assert flops.training(cfg, all_pairs()) == pytest.approx(measured, rel=0.06 if cfg.lora else 0.01)


def test_cost_analysis_of_xla_agrees_within_a_few_percent():
    """It counts element-wise work as well, and the body of a loop once, so the layers are unrolled and wide here."""
    cfg = dataclasses.replace(TINY, embed=256, head_dim=128, ff=512, scan_unroll=2)
    measured = compiled(cfg, False).cost_analysis()["flops"]
    assert flops.forward(cfg, all_pairs()) == pytest.approx(measured, rel=0.05)


def test_pairs_of_packed_rows_and_of_windows_are_those_of_the_masks():
    cfg = dataclasses.replace(TINY, local_layers=(1,), window=3)
    segments = np.array([[1, 1, 1, 1, 1, 2, 2, 0], [1, 2, 2, 2, 2, 2, 2, 2]])
    index = np.arange(8)
    seen = (segments[:, :, None] == segments[:, None, :]) & (segments[:, :, None] > 0)
    seen &= index[:, None] >= index[None, :]
    near = seen & (index[:, None] - index[None, :] < cfg.window)
    positions = np.array([[0, 1, 2, 3, 4, 0, 1, 0], [0, 0, 1, 2, 3, 4, 5, 6]])
    load = flops.of_rows(cfg, segments[None], positions[None], 4)
    assert load == flops.Load(15, int(seen.sum()), int(near.sum()), 4)
    assert load == flops.of_sequences(cfg, [5, 2, 1, 7], 4)
    # In two parts, the first of them cached: the same.
    parts = flops.of_sequences(cfg, [2, 1, 0, 4], 0), flops.of_sequences(cfg, [5, 2, 1, 7], 4, known=[2, 1, 0, 4])
    assert parts[0] + parts[1] == load
    nothing = np.zeros((2, 8), np.int32)
    assert flops.of_rows(cfg, nothing, nothing, 0) == flops.Load()


def test_a_local_layer_counts_its_own_pairs():
    cfg = dataclasses.replace(TINY, local_layers=(1,), window=3)
    whole, local = flops.Load(pairs=100, local_pairs=30), 4 * cfg.heads * cfg.head_dim
    assert flops.forward(cfg, whole) == local * (100 + 30)
