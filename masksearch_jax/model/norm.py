"""RMSNorm (Zhang and Sennrich 2019), the only norm of the decoder."""

import jax
import jax.numpy as jnp
from flax import nnx

from masksearch_jax.model.config import ModelConfig


@jax.named_scope("norm")
def rms_norm(x: jax.Array, scale: jax.Array, eps: float, plus_one: bool = False) -> jax.Array:
    """Return x / rms(x) * scale (plus_one: 1 + scale) over the last axis, computed in float32, in the dtype of x."""
    wide = x.astype(jnp.float32)
    wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + eps)
    scale = scale.astype(jnp.float32)
    return (wide * (1 + scale if plus_one else scale)).astype(x.dtype)


def norm_init(cfg: ModelConfig):
    """Return the initialiser with which a norm starts by scaling with 1."""
    return nnx.initializers.zeros if cfg.norm_plus_one else nnx.initializers.ones


def norm(cfg: ModelConfig, x: jax.Array, scale: nnx.Param) -> jax.Array:
    """Return `rms_norm` of x with the eps and the kind of scale of `cfg`."""
    return rms_norm(x, scale[...], cfg.norm_eps, cfg.norm_plus_one)
