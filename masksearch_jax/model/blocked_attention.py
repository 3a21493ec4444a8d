"""Causal attention of whole packed rows in tiles, in plain XLA. No pass ever holds all scores of a row.

Axes as in transformer.py; G = N / K query heads share a key-value head. A tile holds the scores of `TILE` queries of
the G heads of one key-value head against `TILE` keys. It is computed, used and dropped, with a running softmax
(FlashAttention, arXiv 2205.14135; the running maximum and sum of Milakov and Gimelshein, arXiv 1805.02867). The
backward pass computes each tile again from the log-sum-exp of its queries. A tile is skipped if none of its queries may
see any of its keys: because it lies above the diagonal or before a local window, or because its queries and keys belong
to different segments or are padding.
Left out: on which devices this runs and how a mesh shards its arguments (packed_attention.py).
"""

import functools

import jax
import jax.numpy as jnp

TILE = 128
_MASKED = -1e30  # below any score, and finite


def attend_in_tiles(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    query_segments: jax.Array,
    key_segments: jax.Array,
    query_positions: jax.Array,
    window: jax.Array | int,
    softcap: float = 0.0,
    tile: int = TILE,
) -> jax.Array:
    """Return softmax(q k^T) v, where each query sees at most the last `window` keys of its segment, its own included.

    q: [B, N, S, H], already divided by the score divisor. k, v: [B, K, T, H]. query_segments: int32 [B, S].
    key_segments: int32 [B, T]; 0 is padding. query_positions: int32 [S], consecutive indices into T. window: int32 [].
    Returns [B, N, S, H] in the dtype of v, differentiable in q, k and v. Outputs are 0 where a whole tile of queries is
    padding.
    """
    batch, heads, steps, width = q.shape
    kv_heads, time = k.shape[1:3]
    tile = min(tile, steps)
    pad_q, pad_k = -steps % tile, -time % tile
    q = jnp.pad(q, ((0, 0), (0, 0), (0, pad_q), (0, 0)))
    k, v = (jnp.pad(x, ((0, 0), (0, 0), (0, pad_k), (0, 0))) for x in (k, v))
    query_segments = jnp.pad(query_segments, ((0, 0), (0, pad_q))).reshape(batch, -1, tile)
    key_segments = jnp.pad(key_segments, ((0, 0), (0, pad_k))).reshape(batch, -1, tile)
    # The G query heads of a key-value head become rows of one matrix product: [B, K, query tiles, G, tile, H].
    group = heads // kv_heads
    q = q.reshape(batch, kv_heads, group, -1, tile, width).swapaxes(2, 3)
    k, v = (x.reshape(batch, kv_heads, -1, tile, width) for x in (k, v))
    first = query_positions[0]
    ranges = _ranges(query_segments, key_segments, first, window, tile)
    out = _attend(q, k, v, query_segments, key_segments, ranges, first, jnp.int32(window), softcap)
    return out.swapaxes(2, 3).reshape(batch, heads, -1, width)[:, :, :steps]


def _ranges(query_segments, key_segments, first, window, tile):
    """Return int32 [B, query tiles, 2]: the first key tile that each query tile looks at, and one past the last."""

    def bounds(segments):
        ordered = jnp.where(segments == 0, jnp.iinfo(jnp.int32).max, segments)  # padding comes last in a row
        return ordered.min(axis=-1), ordered.max(axis=-1)

    (q_low, q_high), (k_low, k_high) = bounds(query_segments), bounds(key_segments)
    start = first + jnp.arange(query_segments.shape[1]) * tile  # position of the first query of a tile
    index = jnp.arange(key_segments.shape[1]) * tile
    near = (index <= start[:, None] + tile - 1) & (index + tile - 1 > start[:, None] - window)
    seen = near & (k_low[:, None] <= q_high[:, :, None]) & (k_high[:, None] >= q_low[:, :, None])
    seen &= (query_segments > 0).any(axis=-1)[:, :, None]
    low = jnp.argmax(seen, axis=-1)
    high = seen.shape[-1] - jnp.argmax(seen[..., ::-1], axis=-1)
    return jnp.stack([low, jnp.where(seen.any(axis=-1), high, low)], axis=-1).astype(jnp.int32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(8,))
def _attend(q, k, v, query_segments, key_segments, ranges, first, window, softcap):
    return _forward(q, k, v, query_segments, key_segments, ranges, first, window, softcap)[0]


def _scores(q, k, softcap):
    """Return the scores [G, tile, tile] float32 of queries [G, tile, H] and keys [tile, H]."""
    scores = jnp.einsum("gqh,kh->gqk", q, k, preferred_element_type=jnp.float32)
    return softcap * jnp.tanh(scores / softcap) if softcap else scores


def _visible(q_segments, k_segments, start, j, window):
    """Return bool [tile, tile], True where a query may see a key.

    start: position of the first query. j: index of the key tile.
    """
    tile = k_segments.shape[0]
    distance = start + jnp.arange(tile)[:, None] - (j * tile + jnp.arange(tile))
    return (q_segments[:, None] == k_segments) & (distance >= 0) & (distance < window)


def _by_head(call, q, *others):
    """Run call(row, ..) for each row and key-value head, one after the other, so that a tile stays in a core's cache.

    row: index of the row in the batch. others: [B, K, ..] each. Returns what `call` returns, with axes B and K in
    front.
    """
    batch, kv_heads = q.shape[:2]
    rows = jnp.repeat(jnp.arange(batch), kv_heads)
    flat = [x.reshape(batch * kv_heads, *x.shape[2:]) for x in (q, *others)]
    found = jax.lax.map(lambda args: call(*args), (rows, *flat))
    return jax.tree.map(lambda x: x.reshape(batch, kv_heads, *x.shape[1:]), found)


def _forward(q, k, v, query_segments, key_segments, ranges, first, window, softcap):
    tile, width = q.shape[4:]

    def one_head(row, q, k, v):
        def one_tile(args):
            i, queries = args
            start = first + i * tile
            low, high = ranges[row, i]

            def step(j, carry):
                top, total, out = carry
                scores = _scores(queries, k[j], softcap)
                seen = _visible(query_segments[row, i], key_segments[row, j], start, j, window)
                scores = jnp.where(seen, scores, _MASKED)
                new = jnp.maximum(top, scores.max(axis=-1, keepdims=True))
                weights, kept = jnp.exp(scores - new), jnp.exp(top - new)
                added = jnp.einsum("gqk,kh->gqh", weights.astype(v.dtype), v[j], preferred_element_type=jnp.float32)
                return new, total * kept + weights.sum(axis=-1, keepdims=True), out * kept + added

            shape = queries.shape[:2]
            top, total, out = jax.lax.fori_loop(
                low, high, step,
                (jnp.full((*shape, 1), _MASKED), jnp.zeros((*shape, 1)), jnp.zeros((*shape, width))),
            )  # fmt: skip
            total = jnp.maximum(total, 1e-30)  # no division by zero for a tile that saw no keys
            return (out / total).astype(v.dtype), top + jnp.log(total)

        return jax.lax.map(one_tile, (jnp.arange(q.shape[0]), q))

    out, lse = _by_head(one_head, q, k, v)
    return out, (q, k, v, query_segments, key_segments, ranges, first, window, out, lse)


def _backward(softcap, saved, grad):
    q, k, v, query_segments, key_segments, ranges, first, window, out, lse = saved
    tile = q.shape[4]
    # The sum over keys of p dp, which the gradient of a softmax subtracts.
    delta = jnp.sum(grad.astype(jnp.float32) * out.astype(jnp.float32), axis=-1, keepdims=True)

    def one_head(row, q, k, v, grad, lse, delta):
        def one_tile(carry, args):
            i, queries, grads, lse, delta = args
            start = first + i * tile
            low, high = ranges[row, i]

            def step(j, carry):
                dq, dk, dv = carry
                scores = _scores(queries, k[j], softcap)
                seen = _visible(query_segments[row, i], key_segments[row, j], start, j, window)
                weights = jnp.where(seen, jnp.exp(scores - lse), 0.0)
                dv_j = jnp.einsum("gqk,gqh->kh", weights.astype(v.dtype), grads, preferred_element_type=jnp.float32)
                dp = jnp.einsum("gqh,kh->gqk", grads, v[j], preferred_element_type=jnp.float32)
                ds = weights * (dp - delta)
                if softcap:
                    ds *= 1 - jnp.square(scores / softcap)
                ds = ds.astype(q.dtype)
                dq += jnp.einsum("gqk,kh->gqh", ds, k[j], preferred_element_type=jnp.float32)
                dk_j = jnp.einsum("gqk,gqh->kh", ds, queries, preferred_element_type=jnp.float32)
                return dq, dk.at[j].add(dk_j), dv.at[j].add(dv_j)

            dq, dk, dv = jax.lax.fori_loop(low, high, step, (jnp.zeros(queries.shape), *carry))
            return (dk, dv), dq.astype(q.dtype)

        zeros = jnp.zeros(k.shape, jnp.float32)
        (dk, dv), dq = jax.lax.scan(one_tile, (zeros, zeros), (jnp.arange(q.shape[0]), q, grad, lse, delta))
        return dq, dk.astype(k.dtype), dv.astype(v.dtype)

    return *_by_head(one_head, q, k, v, grad, lse, delta), None, None, None, None, None


_attend.defvjp(_forward, _backward)
