"""The lookup of token embeddings, with a gradient that is summed in float32."""

import jax
import jax.numpy as jnp


def lookup(table: jax.Array, ids: jax.Array) -> jax.Array:
    """Look up ids int32 [B, S] in table [V, D] -> [B, S, D] of the table's dtype. The gradient is summed in float32."""
    return _take_from_narrow(table, ids) if table.dtype.itemsize < 4 else _take(table, ids)


def _take(table, ids):
    return jnp.take(table, ids, axis=0, mode="clip")


# A bfloat16 scatter-add would lose counts: a sum of ones stops at 256, even for a token that occurs a thousand times.
_take_from_narrow = jax.custom_vjp(_take)


def _backward(table_and_ids, grad):
    table, ids = table_and_ids
    wide = jax.ShapeDtypeStruct(table.shape, jnp.float32)
    (total,) = jax.linear_transpose(lambda t: _take(t, ids), wide)(grad.astype(jnp.float32))
    return total.astype(table.dtype), None


_take_from_narrow.defvjp(lambda table, ids: (_take(table, ids), (table, ids)), _backward)
