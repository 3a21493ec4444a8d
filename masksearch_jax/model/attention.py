"""Causal grouped-query attention with rotary positions and, as options, local windows and smeared keys.

Axes as in transformer.py. Enters: the normed residual stream [B, S, D]. Leaves: the attention output [B, S, D] and,
when a cache is given, the cache's updated layer. Scores and softmax are float32 whatever the compute dtype.
transformer.py decides for each layer which tokens it sees and how it rotates them, and passes that in.
Left out: fused kernels for training (packed_attention.py), and shorter caches for local layers.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import cast

import jax
import jax.numpy as jnp
from flax import nnx

from masksearch_jax.model import kv_cache as kv
from masksearch_jax.model.config import ModelConfig
from masksearch_jax.model.linear import from_heads, to_heads
from masksearch_jax.model.lora import Adapters
from masksearch_jax.model.norm import norm, norm_init

# Below any score, and finite: a row of padding that sees nothing gets a uniform softmax, never NaN.
_MASKED = -1e30
# Up to this many query rows per key-value head, XLA on CPU is fastest with one matrix-vector product per row: q k^T
# transposes the whole cache first, and k q^T leaves scores whose last axis is too short for vector instructions.
# 1.1 against 1.7 ms at B = 16, T = 768 and two rows; 1.9 against 2.2 ms at eight.
_FEW_ROWS = 8


def rope_tables(cfg: ModelConfig, positions: jax.Array, local: bool = False) -> tuple[jax.Array, jax.Array]:
    """Return cosines and sines [B, 1, S, R/2] float32 for positions [B, S], R = cfg.rotary_dim (RoFormer, eq. 15).

    local: return the tables of cfg.local_layers instead of those of the other layers.
    """
    exponent = jnp.arange(0, cfg.rotary_dim, 2, dtype=jnp.float32) / cfg.rotary_dim
    if local and cfg.local_rope_base:
        frequency = cfg.local_rope_base**-exponent
    else:
        frequency = _scaled(cfg, cfg.rope_base**-exponent)
    angles = positions[:, None, :, None].astype(jnp.float32) * frequency
    return jnp.cos(angles), jnp.sin(angles)


def _scaled(cfg, frequency):
    """Return the frequencies, scaled by `cfg.rope_scaling` for texts longer than those of pretraining."""
    if cfg.rope_scaling == "none":
        return frequency
    if cfg.rope_scaling == "linear":
        return frequency / cfg.rope_factor
    # Llama 3.1: the number of turns within the original length decides. Pairs that turn fast keep their frequency, that
    # of slow ones is divided, and that of the others is blended.
    turns = cfg.rope_original_length * frequency / (2 * math.pi)
    kept = jnp.clip((turns - cfg.rope_low_freq) / (cfg.rope_high_freq - cfg.rope_low_freq), 0, 1)
    return frequency * (kept + (1 - kept) / cfg.rope_factor)


def apply_rope(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Rotate the first R dimensions of x [B, N, S, H]; dimension i pairs with i + R/2, as in published Qwen weights."""
    half = cos.shape[-1]
    first, second, rest = jnp.split(x, (half, 2 * half), axis=-1)
    rotated = (first * cos - second * sin, second * cos + first * sin)
    return jnp.concatenate([*(r.astype(x.dtype) for r in rotated), rest], axis=-1)


@jax.named_scope("attend")
def attend(
    q: jax.Array,
    k: Sequence[jax.Array],
    v: Sequence[jax.Array],
    mask: jax.Array,
    divisor: float | None = None,
    softcap: float = 0.0,
) -> jax.Array:
    """Return softmax(q k^T / divisor) v, where query head n reads key-value head n // (N / K).

    q: [B, N, S, H]. k, v: blocks [B, K, T_i, H], one after another in time; T is the sum of T_i. mask: bool [B, S, T],
    True where a query may see a key. divisor: sqrt(H) by default. softcap: scores become softcap * tanh(scores /
    softcap); 0 leaves them unchanged. Returns [B, N, S, H] in the dtype of v.
    """
    batch, heads, steps, head_dim = q.shape
    kv_heads = k[0].shape[1]
    group = heads // kv_heads
    rows = group * steps
    # The queries of a group are rows of one matrix product, so keys are read once per group and never repeated.
    q = (q / (divisor or math.sqrt(head_dim))).reshape(batch, kv_heads, rows, head_dim)
    mask = jnp.tile(mask, (1, group, 1))[:, None]  # [B, 1, rows, T]
    starts = list(itertools.accumulate(block.shape[2] for block in k))[:-1]

    def score(block, visible):
        scores = _row_scores(q, block) if rows <= _FEW_ROWS else _scores(q, block)
        if softcap:
            scores = softcap * jnp.tanh(scores / softcap)
        return jnp.where(visible, scores, _MASKED)

    scores = [score(*both) for both in zip(k, jnp.split(mask, starts, axis=3), strict=True)]
    top = functools.reduce(jnp.maximum, (part.max(axis=3, keepdims=True) for part in scores))
    weights = [jnp.exp(part - jax.lax.stop_gradient(top)) for part in scores]
    total = sum(part.sum(axis=3, keepdims=True) for part in weights)
    # Dividing after the product takes H divisions per query instead of T.
    products = [
        jnp.einsum("bkqt,bkth->bkqh", part.astype(block.dtype), block, preferred_element_type=jnp.float32)
        for part, block in zip(weights, v, strict=True)
    ]
    out = cast(jax.Array, sum(products))
    return (out / total).astype(v[0].dtype).reshape(batch, heads, steps, head_dim)


def _scores(q, k):
    return jnp.einsum("bkqh,bkth->bkqt", q, k, preferred_element_type=jnp.float32)


def _row_scores(q, k):
    """Compute `_scores` for few query rows; on CPU one row at a time."""

    def by_row(q, k):
        rows = (
            jnp.einsum("bkth,bkh->bkt", k, q[:, :, row], preferred_element_type=jnp.float32)
            for row in range(q.shape[2])
        )
        return jnp.stack(list(rows), axis=2)

    return jax.lax.platform_dependent(q, k, cpu=by_row, default=_scores)


class Attention(nnx.Module):
    """Attention. Declared with the weights of all L layers stacked; the methods compute one layer (transformer.py)."""

    def __init__(self, cfg: ModelConfig, *, param):
        """param(shape, axes, init) makes a stacked Param, see `transformer.Transformer`."""
        d, n, k, h = cfg.embed, cfg.heads, cfg.kv_heads, cfg.head_dim
        into = nnx.initializers.normal(d**-0.5)
        # The two products that write to the residual stream (this one and the MLP's `down`) start smaller by
        # sqrt(2 L), so that what L layers add sums to about unit variance.
        out = nnx.initializers.normal((n * h) ** -0.5 / math.sqrt(2 * cfg.layers))
        self.cfg = cfg
        self.q = param((d, n, h), ("embed", "heads", "head_dim"), into)
        self.k = param((d, k, h), ("embed", "kv_heads", "head_dim"), into)
        self.v = param((d, k, h), ("embed", "kv_heads", "head_dim"), into)
        self.o = param((n, h, d), ("heads", "head_dim", "embed"), out)
        if cfg.qkv_bias:
            self.q_bias = param((n, h), ("heads", "head_dim"), nnx.initializers.zeros)
            self.k_bias = param((k, h), ("kv_heads", "head_dim"), nnx.initializers.zeros)
            self.v_bias = param((k, h), ("kv_heads", "head_dim"), nnx.initializers.zeros)
        if cfg.qk_norm:
            self.q_norm = param((h,), ("norm",), norm_init(cfg))
            self.k_norm = param((h,), ("norm",), norm_init(cfg))
        if cfg.smear_keys:
            self.smear = param((k,), ("kv_heads",), nnx.initializers.constant(0.5))

    @jax.named_scope("attention")
    def __call__(
        self,
        x: jax.Array,
        rope,
        attend_rows,
        starts: jax.Array,
        adapters: Adapters,
        parents: jax.Array | None = None,
    ) -> jax.Array:
        """Compute attention over whole sequences, for training: x [B, S, D] -> [B, S, D].

        starts: bool [B, S], True at the first token of a segment. attend_rows: a function (q [B, N, S, H], k, v
        [B, K, S, H]) -> [B, N, S, H], the attention of each token over the tokens that it sees. parents: int32 [B, S],
        the index of the token before each one in its sequence; None where that is the token to its left.
        """
        q, k, v = self._project(x, adapters)
        if parents is None:
            k = self._smear(k, k[:, :, :1], starts)
        else:
            k = self._smeared(k, jnp.take_along_axis(k, parents[:, None, :, None], axis=2), starts)
        q, k = self._rotate(q, k, rope)
        return self._output(attend_rows(q, k, v), adapters)

    @jax.named_scope("attention")
    def extend(
        self, x: jax.Array, rope, mask: jax.Array, layer, lengths: jax.Array, counts: jax.Array, adapters: Adapters
    ):
        """Write counts[b] of the S tokens of row b to the cache, and attend over the cache where `mask` allows.

        x: [B, S, D]. mask: bool [B, S, T]. layer: (blocks of k, blocks of v, each [B, K, T_i, H], and last_key
        [B, K, H] or None). Returns (output [B, S, D], the updated layer).
        """
        cache_k, cache_v, last_key = layer
        q, raw, v = self._project(x, adapters)
        k = raw
        if self.cfg.smear_keys:
            first = (jnp.arange(x.shape[1])[None, :] == 0) & (lengths == 0)[:, None]
            k = self._smear(raw, last_key[:, :, None], first)
            newest = jnp.clip(counts - 1, 0)[:, None, None, None]
            newest = jnp.take_along_axis(raw, newest, axis=2)[:, :, 0]
            last_key = jnp.where((counts > 0)[:, None, None], newest, last_key)
        q, k = self._rotate(q, k, rope)
        cache_k = kv.write(cache_k, k, lengths, counts)
        cache_v = kv.write(cache_v, v, lengths, counts)
        out = attend(q, cache_k, cache_v, mask, self.cfg.score_divisor, self.cfg.attention_softcap)
        return self._output(out, adapters), (cache_k, cache_v, last_key)

    def _project(self, x, adapters):
        """Project x [B, S, D] -> q [B, N, S, H], k and v [B, K, S, H], before smear, norm and rotation."""

        def one(name, weight, bias):
            y = adapters(name, x, to_heads(x, weight[...]))
            return y if bias is None else y + bias[...].astype(x.dtype)[:, None, :]

        biases = (self.q_bias, self.k_bias, self.v_bias) if self.cfg.qkv_bias else (None,) * 3
        return tuple(map(one, "qkv", (self.q, self.k, self.v), biases))

    def _smear(self, k, before, starts):
        """Return the keys a k_t + (1 - a) k_{t-1}, or k unchanged without cfg.smear_keys.

        before: [B, K, 1, H], the key that precedes k. A token in `starts` takes its own key as the previous one.
        """
        if not self.cfg.smear_keys:
            return k
        return self._smeared(k, jnp.concatenate([before, k[:, :, :-1]], axis=2), starts)

    def _smeared(self, k, previous, starts):
        previous = jnp.where(starts[:, None, :, None], k, previous)
        share = self.smear[...].astype(k.dtype)[:, None, None]
        return share * k + (1 - share) * previous

    def _rotate(self, q, k, rope):
        if self.cfg.qk_norm:
            q = norm(self.cfg, q, self.q_norm)
            k = norm(self.cfg, k, self.k_norm)
        return apply_rope(q, *rope), apply_rope(k, *rope)

    def _output(self, heads, adapters):
        return adapters("o", heads, from_heads(heads, self.o[...]))
