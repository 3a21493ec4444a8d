"""The key-value cache of rows that grow independently: each row (slot) has its own length.

Axes as in transformer.py: B rows, K key-value heads, T time, H head_dim. Layers are separate arrays laid out
[B, K, T, H], because XLA reads that layout 4-5 times faster on CPU than a stacked [.., T, K, H] one. A layer is cut
along time into blocks, each an array of its own. A program that gets only the first blocks (`split`) pays for the
context in use, not for the longest possible one, and copies nothing.
Left out: which row belongs to which episode (rollout).
"""

import dataclasses
import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from masksearch_jax.model.config import ModelConfig
from masksearch_jax.runtime import mesh as mesh_lib

_AXES = ("batch", "kv_heads", "time", "head_dim")
_LAST_KEY_AXES = ("batch", "kv_heads", "head_dim")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
    """The keys and values of all tokens so far.

    Entries at t >= lengths[b] are leftovers: they are never attended to, and new tokens overwrite them.
    """

    k: tuple[tuple[jax.Array, ...], ...]  # by layer and block [B, K, T_i, H]: smeared, normed, rotated keys
    v: tuple[tuple[jax.Array, ...], ...]  # by layer and block [B, K, T_i, H]
    last_key: tuple[jax.Array, ...]  # per layer [B, K, H]: the newest key as projected, for smear_keys; else ()
    last_ids: tuple[jax.Array, ...]  # one int32 [B, token_shift]: the newest tokens, oldest first; without a shift ()
    lengths: jax.Array  # int32 [B]

    @property
    def batch(self) -> int:
        """The number of rows, B."""
        return self.lengths.shape[0]

    @property
    def time(self) -> int:
        """The capacity T of each row."""
        return self.ends[-1]

    @property
    def ends(self) -> tuple[int, ...]:
        """The time at which each block ends."""
        return tuple(itertools.accumulate(block.shape[2] for block in self.k[0]))


def abstract_cache(cfg: ModelConfig, batch: int, ends: int | Sequence[int], mesh: Mesh) -> Cache:
    """Return the shapes, dtypes and DECODE shardings of a cache, as ShapeDtypeStructs.

    ends: the time at which each block ends, increasing; or the time T of a single block.
    Raises ValueError when the mesh does not divide `batch` or the heads.
    """

    def struct(name, axes, shape, dtype):
        return jax.ShapeDtypeStruct(
            shape, dtype, sharding=mesh_lib.named_sharding(mesh, axes, shape, mesh_lib.DECODE, name)
        )

    kv = tuple(
        struct("cache", _AXES, (batch, cfg.kv_heads, end - start, cfg.head_dim), cfg.compute_dtype)
        for start, end in itertools.pairwise((0, *_tuple(ends)))
    )
    last = struct("cache.last_key", _LAST_KEY_AXES, (batch, cfg.kv_heads, cfg.head_dim), cfg.compute_dtype)
    return Cache(
        k=(kv,) * cfg.layers,
        v=(kv,) * cfg.layers,
        last_key=(last,) * cfg.layers if cfg.smear_keys else (),
        last_ids=(struct("cache.last_ids", ("batch", None), (batch, cfg.token_shift), jnp.int32),)
        if cfg.token_shift
        else (),
        lengths=struct("cache.lengths", ("batch",), (batch,), jnp.int32),
    )


def cache_shardings(cfg: ModelConfig, batch: int, mesh: Mesh) -> Cache:
    """Return the NamedShardings of `abstract_cache`, for in_shardings and out_shardings of a jitted program.

    k and v hold one sharding each, which applies to all their blocks, so the result fits any number of blocks.
    """
    layout = jax.tree.map(lambda s: s.sharding, abstract_cache(cfg, batch, 1, mesh))
    return dataclasses.replace(layout, k=layout.k[0][0], v=layout.v[0][0])


def init_cache(cfg: ModelConfig, batch: int, ends: int | Sequence[int], mesh: Mesh) -> Cache:
    """Return an empty cache of `batch` rows, allocated in its DECODE layout; `ends` as in `abstract_cache`."""
    return _allocator(cfg, batch, _tuple(ends), mesh)()


def _tuple(ends):
    return tuple(map(int, np.atleast_1d(ends)))


@functools.lru_cache(maxsize=64)
def _allocator(cfg, batch, ends, mesh):
    """Return the compiled program that allocates caches of one shape: a new jit per prefill batch would recompile."""
    abstract = abstract_cache(cfg, batch, ends, mesh)

    def zeros():
        return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), abstract)

    return jax.jit(zeros, out_shardings=jax.tree.map(lambda s: s.sharding, abstract))


def split(cache: Cache, time: int) -> tuple[Cache, Cache]:
    """Split a cache after the first block that ends at `time` or later; both parts share arrays with `cache`.

    A program may extend the first part as a cache of its own as long as no row outgrows it. The second part is only
    for `rejoin`. Raises ValueError when `time` is beyond the cache.
    """
    if time > cache.time:
        raise ValueError(f"split: time {time} is beyond a cache of time {cache.time}.")
    count = next(index for index, end in enumerate(cache.ends, 1) if end >= time)
    head = dataclasses.replace(cache, k=tuple(k[:count] for k in cache.k), v=tuple(v[:count] for v in cache.v))
    rest = dataclasses.replace(cache, k=tuple(k[count:] for k in cache.k), v=tuple(v[count:] for v in cache.v))
    return head, rest


def rejoin(head: Cache, rest: Cache) -> Cache:
    """Join the two parts that `split` made; the first may have been extended since."""
    k, v = (tuple(a + b for a, b in zip(*both, strict=True)) for both in ((head.k, rest.k), (head.v, rest.v)))
    return dataclasses.replace(head, k=k, v=v)


def take_rows(cache: Cache, rows: jax.Array) -> Cache:
    """Return the rows `rows` (int [R], repeats allowed, clipped into range) as a cache of R rows and one block.

    `put_rows(cache, rows, take_rows(prefix, owner))` copies a prompt that was prefilled once into many slots.
    """

    def take(x):
        return jnp.take(x, rows, axis=0, mode="clip")

    def joined(blocks):
        return (jnp.concatenate(list(map(take, blocks)), axis=2),)

    return Cache(
        k=tuple(map(joined, cache.k)),
        v=tuple(map(joined, cache.v)),
        last_key=tuple(map(take, cache.last_key)),
        last_ids=tuple(map(take, cache.last_ids)),
        lengths=take(cache.lengths),
    )


def put_rows(cache: Cache, rows: jax.Array, sub: Cache) -> Cache:
    """Replace row rows[r] by row r of `sub`, a cache of one block; rows outside [0, B) are dropped.

    Two entries of `rows` must not name the same row: which of them wins is undefined.
    Raises ValueError when `sub` has more time than `cache`.
    """
    if sub.time > cache.time:
        raise ValueError(f"put_rows: a sub-cache of time {sub.time} does not fit into a cache of time {cache.time}.")
    rows = jnp.where(rows < 0, cache.batch, rows)  # negative indices would count from the end
    starts = (0, *cache.ends)

    def put(into, x):
        return into.at[rows].set(x, mode="drop")

    def put_time(blocks, source):
        (x,) = source
        return tuple(
            block.at[rows, :, : min(end, x.shape[2]) - start].set(x[:, :, start:end], mode="drop")
            if start < x.shape[2]
            else block
            for block, (start, end) in zip(blocks, itertools.pairwise(starts), strict=True)
        )

    return Cache(
        k=tuple(map(put_time, cache.k, sub.k)),
        v=tuple(map(put_time, cache.v, sub.v)),
        last_key=tuple(map(put, cache.last_key, sub.last_key)),
        last_ids=tuple(map(put, cache.last_ids, sub.last_ids)),
        lengths=put(cache.lengths, sub.lengths),
    )


def copy_rows(cache: Cache, rows: jax.Array, sources: jax.Array) -> Cache:
    """Replace row rows[r] by row sources[r] of the same cache; rows outside [0, B) are dropped, sources are clipped.

    rows, sources: int [R]. Rows are read before any is written. Two entries of `rows` must not name the same row.
    """
    rows = jnp.where(rows < 0, cache.batch, rows)  # negative indices would count from the end

    def copy(x):
        return x.at[rows].set(jnp.take(x, sources, axis=0, mode="clip"), mode="drop")

    copied: Cache = jax.tree.map(copy, cache)
    return copied


def write(blocks: Sequence[jax.Array], new: jax.Array, lengths: jax.Array, counts: jax.Array) -> tuple[jax.Array, ...]:
    """Write the first counts[b] tokens of new[b] at time lengths[b] of row b, and return the blocks.

    blocks: [B, K, T_i, H] each, one after another in time. new: [B, K, S, H]. lengths, counts: int32 [B]; lengths +
    counts is at most the sum of T_i.
    """
    starts = (0, *itertools.accumulate(block.shape[2] for block in blocks))[:-1]
    written = (_write(block, new, lengths - start, counts) for block, start in zip(blocks, starts, strict=True))
    # Pin each block to its layout. Otherwise, where shards share key-value heads, the layout of the queries would reach
    # the blocks through the attention: each shard would write its part of the heads, and all would gather the whole
    # cache again.
    return tuple(mesh_lib.constrain(block, "batch", "kv_heads", None, "head_dim") for block in written)


def _write(into, new, lengths, counts):
    """Do the part of `write` that falls into one block; rows may start before the block or beyond it."""
    time, steps = into.shape[2], new.shape[2]
    if steps == 1:  # one scattered row per slot: 0.08 ms per layer at B=192, in place under donation
        at = jnp.where((counts > 0) & (lengths >= 0), lengths, time)
        # Batched over rows instead of indexed by them, so that the partitioner sees that each shard writes its own
        # rows. With an index, on two CPU devices, two gathers per layer took half of a decode step's time.
        return jax.vmap(lambda row, x, t: row.at[:, t].set(x, mode="drop"))(into, new[:, :, 0], at)
    # Several tokens: gather and select are three times as fast as scatter on CPU, and exact for ragged counts.
    offset = jnp.arange(time)[None, :] - lengths[:, None]  # [B, T]
    fresh = (offset >= 0) & (offset < counts[:, None])
    source = jnp.clip(offset, 0, steps - 1)[:, None, :, None]
    return jnp.where(fresh[:, None, :, None], jnp.take_along_axis(new, source, axis=2), into)
