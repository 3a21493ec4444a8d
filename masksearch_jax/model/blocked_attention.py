"""Causal attention of whole packed rows in tiles, in plain XLA. No pass ever holds all scores of a row.

Axes as in transformer.py; G = N / K query heads share a key-value head. A tile holds the scores of `TILE` queries of
the G heads of one key-value head against `TILE` keys. It is computed, used and dropped, with a running softmax
(FlashAttention, arXiv 2205.14135; the running maximum and sum of Milakov and Gimelshein, arXiv 1805.02867). The
backward pass computes each tile again from the log-sum-exp of its queries. A tile is skipped if none of its queries may
see any of its keys: because it lies above the diagonal or before a local window, or because its queries and keys belong
to different segments or are padding.
Rows may hold trees of sequences instead of segments. Then the keys of a query lie in any of the tiles before it, and
each tile of queries has a list of the tiles that it looks at.
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
    query_depths: jax.Array | None = None,
    key_depths: jax.Array | None = None,
    key_ends: jax.Array | None = None,
    softcap: float = 0.0,
    tile: int = TILE,
) -> jax.Array:
    """Return softmax(q k^T) v, where each query sees at most the last `window` keys of its segment, its own included.

    q: [B, N, S, H], already divided by the score divisor. k, v: [B, K, T, H]. query_segments: int32 [B, S].
    key_segments: int32 [B, T]; 0 is padding. query_positions: int32 [S], consecutive indices into T. window: int32 [].
    key_ends: int32 [B, T] for rows that hold trees of sequences, None for plain rows: a query at index j then sees the
    keys i with i <= j < key_ends[i]. query_depths int32 [B, S] and key_depths int32 [B, T] are given with it: how deep
    in its tree a token stands; the window counts them.
    Returns [B, N, S, H] in the dtype of v, differentiable in q, k and v. Outputs are 0 where a whole tile of queries is
    padding.
    """
    batch, heads, steps, width = q.shape
    kv_heads, time = k.shape[1:3]
    tile = min(tile, steps)
    pad_q, pad_k = -steps % tile, -time % tile
    q = jnp.pad(q, ((0, 0), (0, 0), (0, pad_q), (0, 0)))
    k, v = (jnp.pad(x, ((0, 0), (0, 0), (0, pad_k), (0, 0))) for x in (k, v))

    def tiles(x, pad):
        return jnp.pad(x, ((0, 0), (0, pad))).reshape(batch, -1, tile)

    q_marks, k_marks = tiles(query_segments, pad_q), tiles(key_segments, pad_k)
    # The G query heads of a key-value head become rows of one matrix product: [B, K, query tiles, G, tile, H].
    group = heads // kv_heads
    q = q.reshape(batch, kv_heads, group, -1, tile, width).swapaxes(2, 3)
    k, v = (x.reshape(batch, kv_heads, -1, tile, width) for x in (k, v))
    first = query_positions[0]
    if key_ends is None:
        seen = _ranges(q_marks, k_marks, first, window, tile)
    else:
        q_marks = tiles(query_depths, pad_q)
        k_marks = jnp.stack([tiles(key_depths, pad_k), tiles(key_ends, pad_k)], axis=2)
        seen = _lists(q_marks, k_marks, first, window, tile)
    out = _attend(q, k, v, q_marks, k_marks, seen, first, jnp.int32(window), softcap)
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


def _lists(query_depths, k_marks, first, window, tile):
    """Return int32 [B, query tiles, 1 + key tiles] of rows that hold trees.

    The first number says how many key tiles the query tile looks at, and these follow in ascending order.
    """
    key_depths, key_ends = k_marks[:, :, 0], k_marks[:, :, 1]
    start = first + jnp.arange(query_depths.shape[1]) * tile  # index of the first query of a tile
    index = jnp.arange(key_depths.shape[1]) * tile
    seen = (index <= start[:, None] + tile - 1) & (key_ends.max(axis=-1)[:, None] > start[:, None])
    seen &= query_depths.min(axis=-1)[:, :, None] - key_depths.max(axis=-1)[:, None] < window
    order = jnp.argsort(~seen, axis=-1, stable=True)
    return jnp.concatenate([seen.sum(axis=-1, keepdims=True), order], axis=-1).astype(jnp.int32)


def _loop(seen, k_marks, step, start):
    """Run step(j, carry) for each key tile j that a tile of queries looks at, in ascending order.

    seen: what `_ranges` or `_lists` found for the tile of queries. k_marks: as in `_attend`.
    """
    if k_marks.ndim == 3:
        return jax.lax.fori_loop(seen[0], seen[1], step, start)
    return jax.lax.fori_loop(0, seen[0], lambda n, carry: step(seen[1 + n], carry), start)


@functools.partial(jax.custom_vjp, nondiff_argnums=(8,))
def _attend(q, k, v, q_marks, k_marks, seen, first, window, softcap):
    """Compute attention of tiles.

    Of plain rows: q_marks and k_marks are the segments, int32 [B, tiles, tile] each, and seen is what `_ranges` found.
    Of rows that hold trees: q_marks are the depths, int32 [B, tiles, tile], k_marks the depths and the ends, int32
    [B, tiles, 2, tile], and seen is what `_lists` found.
    """
    return _forward(q, k, v, q_marks, k_marks, seen, first, window, softcap)[0]


def _scores(q, k, softcap):
    """Return the scores [G, tile, tile] float32 of queries [G, tile, H] and keys [tile, H]."""
    scores = jnp.einsum("gqh,kh->gqk", q, k, preferred_element_type=jnp.float32)
    return softcap * jnp.tanh(scores / softcap) if softcap else scores


def _visible(q_marks, k_marks, start, j, window):
    """Return bool [tile, tile], True where a query may see a key.

    q_marks, k_marks: of one tile each. start: index of the first query. j: index of the key tile.
    """
    tile = q_marks.shape[0]
    rows, columns = start + jnp.arange(tile)[:, None], j * tile + jnp.arange(tile)
    if k_marks.ndim == 1:
        distance = rows - columns
        return (q_marks[:, None] == k_marks) & (distance >= 0) & (distance < window)
    depths, ends = k_marks
    return (columns <= rows) & (rows < ends) & (q_marks[:, None] - depths < window)


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


def _forward(q, k, v, q_marks, k_marks, seen, first, window, softcap):
    tile, width = q.shape[4:]

    def one_head(row, q, k, v):
        def one_tile(args):
            i, queries = args
            start = first + i * tile

            def step(j, carry):
                top, total, out = carry
                scores = _scores(queries, k[j], softcap)
                visible = _visible(q_marks[row, i], k_marks[row, j], start, j, window)
                scores = jnp.where(visible, scores, _MASKED)
                new = jnp.maximum(top, scores.max(axis=-1, keepdims=True))
                weights, kept = jnp.exp(scores - new), jnp.exp(top - new)
                added = jnp.einsum("gqk,kh->gqh", weights.astype(v.dtype), v[j], preferred_element_type=jnp.float32)
                return new, total * kept + weights.sum(axis=-1, keepdims=True), out * kept + added

            shape = queries.shape[:2]
            top, total, out = _loop(
                seen[row, i], k_marks, step,
                (jnp.full((*shape, 1), _MASKED), jnp.zeros((*shape, 1)), jnp.zeros((*shape, width))),
            )  # fmt: skip
            total = jnp.maximum(total, 1e-30)  # no division by zero for a tile that saw no keys
            return (out / total).astype(v.dtype), top + jnp.log(total)

        return jax.lax.map(one_tile, (jnp.arange(q.shape[0]), q))

    out, lse = _by_head(one_head, q, k, v)
    return out, (q, k, v, q_marks, k_marks, seen, first, window, out, lse)


def _backward(softcap, saved, grad):
    q, k, v, q_marks, k_marks, seen, first, window, out, lse = saved
    tile = q.shape[4]
    # The sum over keys of p dp, which the gradient of a softmax subtracts.
    delta = jnp.sum(grad.astype(jnp.float32) * out.astype(jnp.float32), axis=-1, keepdims=True)

    def one_head(row, q, k, v, grad, lse, delta):
        def one_tile(carry, args):
            i, queries, grads, lse, delta = args
            start = first + i * tile

            def step(j, carry):
                dq, dk, dv = carry
                scores = _scores(queries, k[j], softcap)
                visible = _visible(q_marks[row, i], k_marks[row, j], start, j, window)
                weights = jnp.where(visible, jnp.exp(scores - lse), 0.0)
                dv_j = jnp.einsum("gqk,gqh->kh", weights.astype(v.dtype), grads, preferred_element_type=jnp.float32)
                dp = jnp.einsum("gqh,kh->gqk", grads, v[j], preferred_element_type=jnp.float32)
                ds = weights * (dp - delta)
                if softcap:
                    ds *= 1 - jnp.square(scores / softcap)
                ds = ds.astype(q.dtype)
                dq += jnp.einsum("gqk,kh->gqh", ds, k[j], preferred_element_type=jnp.float32)
                dk_j = jnp.einsum("gqk,gqh->kh", ds, queries, preferred_element_type=jnp.float32)
                return dq, dk.at[j].add(dk_j), dv.at[j].add(dv_j)

            dq, dk, dv = _loop(seen[row, i], k_marks, step, (jnp.zeros(queries.shape), *carry))
            return (dk, dv), dq.astype(q.dtype)

        zeros = jnp.zeros(k.shape, jnp.float32)
        (dk, dv), dq = jax.lax.scan(one_tile, (zeros, zeros), (jnp.arange(q.shape[0]), q, grad, lse, delta))
        return dq, dk.astype(k.dtype), dv.astype(v.dtype)

    return *_by_head(one_head, q, k, v, grad, lse, delta), None, None, None, None, None


_attend.defvjp(_forward, _backward)
