"""Small configs that between them switch every option, and parameters far from their symmetric start."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from masksearch_jax.model import transformer
from masksearch_jax.model.config import ModelConfig
from masksearch_jax.runtime import mesh as mesh_lib

SIZES = dict(vocab_size=32, layers=2, embed=16, head_dim=8, ff=24, scan_unroll=1)
CONFIGS = {
    "tiny": ModelConfig(**{**SIZES, "scan_unroll": 3}, heads=2, kv_heads=2),
    "qwen2": ModelConfig(
        **SIZES, heads=4, kv_heads=2, mlp="swiglu", qkv_bias=True, smear_keys=False, rope_fraction=1.0
    ),
    "qwen3": ModelConfig(
        **SIZES, heads=4, kv_heads=1, mlp="swiglu", qk_norm=True, tie_embeddings=False, smear_keys=True, token_shift=3
    ),
}


def one_device():
    return mesh_lib.make_mesh(1, 1, 1)


@functools.cache
def scattered_params(cfg, seed=0):
    """Initial parameters plus noise on all of them: biases off zero, norms off one, smear off a half."""
    rng = np.random.default_rng(seed)
    params = transformer.init_params(cfg, seed, one_device())
    return jax.tree.map(lambda x: jnp.asarray(np.asarray(x) + rng.normal(scale=0.2, size=x.shape), x.dtype), params)


def random_ids(cfg, rows, steps, seed=0):
    """int32 [rows, steps], numpy."""
    return np.random.default_rng(seed).integers(0, cfg.vocab_size, (rows, steps), dtype=np.int32)
