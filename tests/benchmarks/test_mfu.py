import jax
import jax.numpy as jnp
import pytest

from benchmarks import mfu
from masksearch_jax.aot import hlo
from masksearch_jax.model import transformer
from masksearch_jax.model.config import ModelConfig
from masksearch_jax.runtime import mesh as mesh_lib


def test_flops_of_a_token_are_those_of_the_compiled_forward_pass():
    cfg = ModelConfig(vocab_size=512, layers=2, embed=64, heads=2, kv_heads=2, head_dim=32, ff=128)
    mesh, rows, length = mesh_lib.make_mesh(1, 1, 1), 2, 64
    with jax.set_mesh(mesh):
        params = transformer.init_params(cfg, 0, mesh)
        ids = jnp.ones((rows, length), jnp.int32)
        program = jax.jit(
            lambda params, ids: transformer.unembed(cfg, params, transformer.forward(cfg, params, ids, ids, ids))
        )
        done = hlo.work(program.lower(params, ids).compile().as_text()).flops
    parameters = sum(x.size for x in jax.tree.leaves(params))
    # XLA computes the masked half of attention too: as much as causal attention over twice the length.
    assert 3 * done == pytest.approx(rows * length * mfu.flops_of_token(cfg, parameters, 2 * length), rel=0.02)
