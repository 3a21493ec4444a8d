"""The key-value cache of rows that grow at their own pace: each row (slot) has its own length.

Axes as in transformer.py: B rows, K key-value heads, T time, H head_dim. Layers are separate arrays laid out
[B, K, T, H], because XLA reads that layout 4-5 times faster on CPU than a stacked [.., T, K, H] one. Everything behind
`write` and the row functions may become a ring or a page table without the model noticing.
Left out: which row belongs to which episode (rollout).
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from masksearch_jax import sharding
from masksearch_jax.model.config import ModelConfig

_AXES = ("batch", "kv_heads", "time", "head_dim")
_LAST_KEY_AXES = ("batch", "kv_heads", "head_dim")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
    """Keys and values seen so far.

    Entries at t >= lengths[b] are leftovers: never attended, overwritten by the next append.
    """

    k: tuple[jax.Array, ...]  # one [B, K, T, H] a layer: smeared, normed, rotated keys
    v: tuple[jax.Array, ...]  # one [B, K, T, H] a layer
    last_key: tuple[jax.Array, ...]  # one [B, K, H] a layer: the newest key as projected, for smear_keys; else ()
    lengths: jax.Array  # int32 [B]

    @property
    def batch(self) -> int:
        """Number of rows B."""
        return self.lengths.shape[0]

    @property
    def time(self) -> int:
        """Capacity T of each row."""
        return self.k[0].shape[2]


def abstract_cache(cfg: ModelConfig, batch: int, time: int, mesh: Mesh) -> Cache:
    """Shapes, dtypes and DECODE shardings of a cache, as ShapeDtypeStructs.

    Raises ValueError when `batch` or the heads do not divide over the mesh.
    """

    def struct(name, axes, shape, dtype):
        return jax.ShapeDtypeStruct(
            shape, dtype, sharding=sharding.named_sharding(mesh, axes, shape, sharding.DECODE, name)
        )

    kv = struct("cache", _AXES, (batch, cfg.kv_heads, time, cfg.head_dim), cfg.compute_dtype)
    last = struct("cache.last_key", _LAST_KEY_AXES, (batch, cfg.kv_heads, cfg.head_dim), cfg.compute_dtype)
    return Cache(
        k=(kv,) * cfg.layers,
        v=(kv,) * cfg.layers,
        last_key=(last,) * cfg.layers if cfg.smear_keys else (),
        lengths=struct("cache.lengths", ("batch",), (batch,), jnp.int32),
    )


def cache_shardings(cfg: ModelConfig, batch: int, time: int, mesh: Mesh) -> Cache:
    """The NamedShardings of `abstract_cache`, for in_shardings and out_shardings of a jitted program."""
    return jax.tree.map(lambda s: s.sharding, abstract_cache(cfg, batch, time, mesh))


def init_cache(cfg: ModelConfig, batch: int, time: int, mesh: Mesh) -> Cache:
    """An empty cache of `batch` rows and `time` tokens a row, allocated in its DECODE layout."""
    return _allocator(cfg, batch, time, mesh)()


@functools.lru_cache(maxsize=64)
def _allocator(cfg, batch, time, mesh):
    """One compiled program a shape: a fresh jit for every prefill batch would compile every time."""
    abstract = abstract_cache(cfg, batch, time, mesh)

    def zeros():
        return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), abstract)

    return jax.jit(zeros, out_shardings=jax.tree.map(lambda s: s.sharding, abstract))


def take_rows(cache: Cache, rows: jax.Array) -> Cache:
    """The rows `rows` (int [R], repeats allowed, clipped into range) as a cache of R rows.

    `put_rows(cache, rows, take_rows(prefix, owner))` copies a prompt that was prefilled once into many slots.
    """
    return jax.tree.map(lambda x: jnp.take(x, rows, axis=0, mode="clip"), cache)


def put_rows(cache: Cache, rows: jax.Array, sub: Cache) -> Cache:
    """Replaces row rows[r] by row r of `sub` (time at most that of `cache`); a rows[r] outside [0, B) is dropped.

    Two entries of `rows` must not name the same row: which one wins is not defined.
    Raises ValueError when `sub` is longer than `cache`.
    """
    if sub.time > cache.time:
        raise ValueError(f"put_rows: a sub-cache of time {sub.time} does not fit into a cache of time {cache.time}.")
    rows = jnp.where(rows < 0, cache.batch, rows)  # negative indices would count from the end

    def put(into, x):
        return into.at[rows].set(x, mode="drop")

    def put_time(into, x):
        return into.at[rows, :, : x.shape[2]].set(x, mode="drop")

    return Cache(
        k=tuple(map(put_time, cache.k, sub.k)),
        v=tuple(map(put_time, cache.v, sub.v)),
        last_key=tuple(map(put, cache.last_key, sub.last_key)),
        lengths=put(cache.lengths, sub.lengths),
    )


def write(into: jax.Array, new: jax.Array, lengths: jax.Array, counts: jax.Array) -> jax.Array:
    """Writes the first counts[b] of new[b] at time lengths[b] of row b.

    into: [B, K, T, H]. new: [B, K, S, H]. lengths, counts: int32 [B], lengths + counts <= T. Returns [B, K, T, H].
    """
    batch, _, time, _ = into.shape
    steps = new.shape[2]
    if steps == 1:  # one scattered row a slot: 0.08 ms a layer at B=192, in place under donation
        at = jnp.where(counts > 0, lengths, time)
        return into.at[jnp.arange(batch), :, at].set(new[:, :, 0], mode="drop", unique_indices=True)
    # A chunk: gather and select beat scatter three times over on CPU, and keep ragged counts exact.
    offset = jnp.arange(time)[None, :] - lengths[:, None]  # [B, T]
    fresh = (offset >= 0) & (offset < counts[:, None])
    source = jnp.clip(offset, 0, steps - 1)[:, None, :, None]
    return jnp.where(fresh[:, None, :, None], jnp.take_along_axis(new, source, axis=2), into)
