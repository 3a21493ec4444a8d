"""Attention of whole packed rows, as training computes it: one function, and the backends behind it.

Axes as in transformer.py. Enters: q, k, v after norm, smear and rotation, the segments of each row, and whether the
layer is a local one (data of the layer scan). Leaves: the heads' outputs. `ModelConfig.attention` names the backend:
  xla     matrix products and a softmax; any shape, dtype and device; holds the scores [N, S, S] of a row
  blocked the same in tiles (blocked_attention.py); any shape, dtype and device; holds no scores, skips tiles that no
          query sees
  splash  the Pallas kernels that come with JAX for TPUs; holds no scores, skips tiles that no query sees
  cudnn   cuDNN's fused attention through jax.nn; holds no scores, but a mask [S, S] of each row
  auto    splash on TPUs, cudnn on GPUs, blocked on CPUs for long rows, xla elsewhere and for whatever these refuse;
          `choose` decides
Rows may hold trees of sequences that share prefixes. The kernels of splash and cudnn take no mask of that kind; 'auto'
takes blocked or xla for such rows.
docs/guides/attention.md says which of these were checked, compiled and executed.
Left out: extending a cache and decoding, which always use XLA. There the length of a row is data while the kernels'
masks are static, the few queries leave nothing to fuse, and a step is bound by reading the cache, which XLA does once.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from masksearch_jax.model.attention import attend
from masksearch_jax.model.blocked_attention import attend_in_tiles
from masksearch_jax.model.config import ModelConfig
from masksearch_jax.runtime import mesh as mesh_lib

_PLATFORM = {"splash": "tpu", "cudnn": "gpu"}
# Sides of a tile of scores; the largest one that divides the row is taken. 128 is the smallest that the kernels accept.
_TILES = (512, 256, 128)
# Row length from which 'auto' takes 'blocked' on a CPU.
_LONG = 512


def choose(cfg: ModelConfig, mesh: Mesh | AbstractMesh, lengths: Iterable[int], trees: bool = False) -> ModelConfig:
    """Return the config with 'auto' replaced by a backend for rows of these lengths on the devices of this mesh.

    trees: whether rows hold trees of sequences (dapo.share_prefixes).
    Raises ValueError, with the reason, when the config names a backend that cannot compute such rows there.
    """
    lengths = tuple(lengths)
    if cfg.attention == "auto":
        able = (name for name in _PLATFORM if not _refusal(cfg, name, mesh, lengths, trees))
        tiled = trees or _platform(mesh) == "cpu"
        plain = "blocked" if tiled and max(lengths, default=0) >= _LONG else "xla"
        return dataclasses.replace(cfg, attention=next(able, plain))
    if reason := _refusal(cfg, cfg.attention, mesh, lengths, trees):
        raise ValueError(f"model.attention = {cfg.attention!r}: {reason}; set it to 'xla', or to 'auto' to have it so.")
    return cfg


def _refusal(cfg, backend, mesh, lengths, trees, devices=True):
    """Return why a backend cannot compute rows of these lengths, '' if it can.

    trees: whether rows hold trees of sequences. devices: whether to check the platform of the mesh's devices too.
    """
    if backend in ("xla", "blocked"):
        return ""
    if trees:
        return "its kernels have no mask for sequences that share a prefix, and dapo.share_prefixes = True"
    platform, parts = _platform(mesh), mesh.shape.get("sequence", 1)
    if devices and platform != _PLATFORM[backend]:
        return f"its kernels are for {_PLATFORM[backend].upper()}s and the devices are {platform}"
    if backend == "splash":
        step = _TILES[-1] * parts
        where = f" on mesh.sequence = {parts}" if parts > 1 else ""
        odd = [length for length in lengths if length % step]
        return f"a row length of {odd[0]} is no multiple of {step}{where}" if odd else ""
    odd = [length for length in lengths if length % 2]
    for refused, reason in (
        (cfg.dtype != "bfloat16", f"it computes in bfloat16, not in model.dtype = {cfg.dtype!r}"),
        (cfg.attention_softcap, f"it has no softcap, and model.attention_softcap = {cfg.attention_softcap}"),
        (cfg.head_dim % 8 or cfg.head_dim > 256, f"model.head_dim = {cfg.head_dim} is no multiple of 8 up to 256"),
        (odd, f"a row length of {odd[:1]} is odd"),
        (parts > 1, f"it cannot cut a row, and mesh.sequence = {parts}"),
    ):
        if refused:
            return reason
    return ""


def _platform(mesh):
    device = mesh.abstract_mesh.abstract_device
    return device.platform if device else jax.default_backend()


@jax.named_scope("attend")
def attend_packed(
    cfg: ModelConfig,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    segments: jax.Array,
    local: jax.Array | None = None,
    ends: jax.Array | None = None,
    positions: jax.Array | None = None,
) -> jax.Array:
    """Return causal attention within segments, computed by the config's backend.

    Each token attends to itself and the earlier tokens of its segment. q: [B, N, S, H]. k, v: [B, K, S, H]; query head
    n reads key-value head n // (N / K). segments: int32 [B, S]. local: bool [], True in a layer whose tokens see only
    the last cfg.window tokens; None when no layer is local. ends, positions: int32 [B, S] for rows that hold trees of
    sequences, in which the token at index j sees that at index i if and only if i <= j < ends[i], and the window counts
    positions. Without ends the positions are not read.
    Under the mesh of `jax.set_mesh` each device runs the kernels on its shard of the rows, heads and queries. Without a
    TPU 'splash' runs interpreted, so that its numbers can be checked. Returns [B, N, S, H] in the dtype of v; outputs
    of padding (segment 0) are finite. Raises ValueError for shapes, dtypes or devices that the backend cannot take.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if cfg.attention == "auto":
        cfg = choose(cfg, mesh, (q.shape[2],), ends is not None)
    if reason := _refusal(cfg, cfg.attention, mesh, (q.shape[2],), ends is not None, cfg.attention == "cudnn"):
        raise ValueError(f"model.attention = {cfg.attention!r}: {reason}; set it to 'xla' or 'auto'.")
    if ends is not None:
        in_trees = {"xla": _xla_trees, "blocked": _blocked_trees}[cfg.attention]
        return in_trees(cfg, q, k, v, segments, local, ends, positions)
    compute = {"xla": _xla, "blocked": _blocked, "splash": _splash, "cudnn": _cudnn}[cfg.attention]
    return compute(cfg, q, k, v, segments, local)


def _xla(cfg, q, k, v, segments, local):
    return attend(q, (k,), (v,), _visible(cfg, segments, local), cfg.score_divisor, cfg.attention_softcap)


def _xla_trees(cfg, q, k, v, segments, local, ends, positions):
    index = jnp.arange(ends.shape[1])[:, None]
    seen = (index >= index.T) & (index < ends[:, None, :])
    if local is not None:
        seen &= (positions[:, :, None] - positions[:, None, :] < cfg.window) | ~local
    return attend(q, (k,), (v,), seen, cfg.score_divisor, cfg.attention_softcap)


def _visible(cfg, segments, local):
    """Return bool [B, S, S], True where a query may see a key."""
    index = jnp.arange(segments.shape[1])
    distance = index[:, None] - index[None, :]
    seen = distance >= 0
    if local is not None:
        seen &= (distance < cfg.window) | ~local
    return (segments[:, :, None] == segments[:, None, :]) & seen


def _blocked(cfg, q, k, v, segments, local):
    return _in_tiles(cfg, q, k, v, segments, local)


def _blocked_trees(cfg, q, k, v, segments, local, ends, positions):
    return _in_tiles(
        cfg, q, k, v, segments, local,
        (positions, ("batch", "time")), (positions, ("batch", None)), (ends, ("batch", None)),
    )  # fmt: skip


def _in_tiles(cfg, q, k, v, segments, local, *trees):
    everything = 1 << 30  # a window longer than any row
    window = everything if local is None else jnp.where(local, cfg.window, everything)
    kernel = functools.partial(attend_in_tiles, softcap=cfg.attention_softcap)
    return _on_shards(
        kernel,
        q / cfg.score_divisor,
        k,
        v,
        (segments, ("batch", "time")),
        (segments, ("batch", None)),
        (jnp.arange(q.shape[2]), ("time",)),
        (jnp.int32(window), ()),
        *trees,
    )


def _cudnn(cfg, q, k, v, segments, local, implementation="cudnn"):
    """Compute attention by `jax.nn.dot_product_attention`. implementation: 'xla' makes the same call without a GPU."""

    def kernel(q, k, v, seen):
        q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
        # The mask is causal already. Saying so once more lets cuDNN skip what lies above the diagonal.
        out = jax.nn.dot_product_attention(
            q, k, v, mask=seen, scale=1 / cfg.score_divisor, is_causal=True, implementation=implementation
        )
        return out.swapaxes(1, 2)

    seen = _visible(cfg, segments, local)[:, None]
    return _on_shards(kernel, q, k, v, (seen, ("batch", None, None, None)))


def _splash(cfg, q, k, v, segments, local):
    from jax.experimental.pallas.ops.tpu import splash_attention as splash  # imported here: it takes 0.4 s

    device = jax.sharding.get_abstract_mesh().abstract_device
    interpret = (device.platform if device else jax.default_backend()) != "tpu"
    q = q / cfg.score_divisor  # the kernels do not scale

    def rows(window, q, k, v, segments):
        mask = _kernel(cfg, q.shape[1], q.shape[2], window, interpret)

        def kernel(q, k, v, q_ids, k_ids, mask):
            return jax.vmap(lambda q, k, v, *ids: mask(q, k, v, segment_ids=splash.SegmentIds(*ids)))(
                q, k, v, q_ids, k_ids
            )

        ids = (segments, ("batch", "time")), (segments, ("batch", None))
        return _on_shards(kernel, q, k, v, *ids, (mask, None))

    if local is None:
        return rows(0, q, k, v, segments)
    # The kernels' masks are static, and whether the layer is local is data. So both kernels are compiled, and one runs.
    return jax.lax.cond(local, functools.partial(rows, cfg.window), functools.partial(rows, 0), q, k, v, segments)


def _kernel(cfg, heads, length, window, interpret):
    """Return the forward and backward kernels of `heads` query heads over rows of `length`.

    window: how many tokens a token sees; 0 for all earlier ones.
    """
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    parts = jax.sharding.get_abstract_mesh().shape.get("sequence", 1)
    tile = next(size for size in _TILES if length % (size * parts) == 0)
    shape = (length, length)
    one: splash.LocalMask | splash.CausalMask
    if window:
        one = splash.LocalMask(shape, (window - 1, 0), 0, shard_count=parts)
    else:
        one = splash.CausalMask(shape, shard_count=parts)
    return splash.make_splash_mha(
        splash.MultiHeadMask([one] * heads),
        block_sizes=splash.BlockSizes(
            block_q=tile, block_kv=tile, block_q_dkv=tile, block_kv_dkv=tile, block_q_dq=tile, block_kv_dq=tile
        ),
        attn_logits_soft_cap=cfg.attention_softcap or None,
        head_shards=1,  # all heads have the same mask, and the kernels keep it once
        q_seq_shards=parts,
        interpret=interpret,
    )


def _on_shards(kernel: Callable[..., jax.Array], q, k, v, *others):
    """Run kernel(q, k, v, ..) on each device's shard.

    Rows are sharded over the batch axes, heads over `tensor`, queries over `sequence`; keys and values are whole in
    time. others: (value, its logical axes); axes of None stand for splash kernels, whose mask is sharded like the
    queries.
    """
    mesh = jax.sharding.get_abstract_mesh()
    values = [value for value, _ in others]
    if mesh.empty or mesh.size == 1:
        return kernel(q, k, v, *values)
    rows = mesh_lib.activation_spec(("batch", "heads", "time", None), q.shape)
    keys = mesh_lib.activation_spec(("batch", "kv_heads", None, None), k.shape)
    time = rows[2] if len(rows) > 2 else None
    specs = [
        value.manual_sharding_spec(NamedSharding(mesh, PartitionSpec(None, time)))
        if axes is None
        else mesh_lib.activation_spec(axes, value.shape)
        for value, axes in others
    ]
    heads, kv_heads = q.shape[1], k.shape[1]

    def on_shard(q, k, v, *values):
        if k.shape[1] == kv_heads and q.shape[1] < heads:
            # Fewer key-value heads than shards (mesh.REPLICATED_WHEN_FEWER): all query heads of a shard read one of
            # them.
            first = jax.lax.axis_index("tensor") * q.shape[1] * kv_heads // heads
            k, v = (jax.lax.dynamic_slice_in_dim(x, first, 1, axis=1) for x in (k, v))
        return kernel(q, k, v, *values)

    # A Pallas call does not say over which mesh axes its results vary, so check_vma is off.
    return jax.shard_map(on_shard, in_specs=(rows, keys, keys, *specs), out_specs=rows, check_vma=False)(
        q, k, v, *values
    )
