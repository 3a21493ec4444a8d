"""Linear maps of [B, S, ..] activations, each written as the product that the device computes fastest.

For a product over several axes XLA on CPU makes transposed copies: of a weight [D, N, H] at each use, and of both
activations for its gradient. So on CPU a large weight is multiplied as a matrix, which needs no copies. The copies of a
small weight cost too little to matter. On other devices the compiler chooses the layouts itself.
"""

import jax
import jax.numpy as jnp

_LARGE = 1 << 16  # a weight of this many elements or more is large


def linear(x: jax.Array, weight: jax.Array) -> jax.Array:
    """Multiply x [B, S, D] by weight [D, F] -> [B, S, F] in the dtype of x."""
    weight = weight.astype(x.dtype)
    if not _as_matrix(weight):
        return x @ weight
    return (x.reshape(-1, x.shape[2]) @ weight).reshape(*x.shape[:2], -1)


def to_heads(x: jax.Array, weight: jax.Array) -> jax.Array:
    """Multiply x [B, S, D] by weight [D, N, H] -> [B, N, S, H] in the dtype of x."""
    weight = weight.astype(x.dtype)
    if not _as_matrix(weight):
        return jnp.einsum("bsd,dnh->bnsh", x, weight)
    return linear(x, weight.reshape(x.shape[2], -1)).reshape(*x.shape[:2], *weight.shape[1:]).swapaxes(1, 2)


def from_heads(heads: jax.Array, weight: jax.Array) -> jax.Array:
    """Multiply heads [B, N, S, H] by weight [N, H, D] -> [B, S, D] in the dtype of heads."""
    weight = weight.astype(heads.dtype)
    if not _as_matrix(weight):
        return jnp.einsum("bnsh,nhd->bsd", heads, weight)
    batch, _, steps, _ = heads.shape
    return linear(heads.swapaxes(1, 2).reshape(batch, steps, -1), weight.reshape(-1, weight.shape[2]))


def _as_matrix(weight):
    return weight.size >= _LARGE and on_cpu()


def on_cpu() -> bool:
    """Return True if the current trace is for CPUs: the devices of `jax.set_mesh`, else the default devices."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return (device.platform if device else jax.default_backend()) == "cpu"
