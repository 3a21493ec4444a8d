"""The decoder of every model family: embedding, stacked layers of attention and MLP, final norm, logits.

Axes, here and in attention.py, block.py and kv_cache.py:
  B batch rows   S new tokens   T cache time   L layers   D embed   N query heads   K key-value heads   H head_dim
  F ff (MLP width)   V vocabulary

`Transformer` (Flax NNX) declares shape, logical axes and initial value of every parameter in one place; abstract
shapes, shardings and the initial tree derive from it. `params` is the nested dict of its arrays, which optax, Orbax and
jax.grad see. The functions `forward`, `extend` and `unembed` put such a tree back into the module and call it, so no
nnx transform and no Rngs run in a forward pass.
Named scopes (embed, norm, attention, mlp, lora, logits, log_probs) mark the parts in a trace; they change no number.
Training scans over the L axis (one compiled layer); `extend` unrolls it, because per-layer caches are faster.
With adapters (lora.py) params has one more subtree, `adapters`, and the linear maps of `blocks` may be quantised.
Left out: loss and sampling.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from masksearch_jax.model import embedding, lora
from masksearch_jax.model.attention import rope_tables
from masksearch_jax.model.block import Block
from masksearch_jax.model.config import ModelConfig
from masksearch_jax.model.kv_cache import Cache
from masksearch_jax.model.norm import norm, norm_init
from masksearch_jax.model.packed_attention import attend_packed
from masksearch_jax.runtime import mesh as mesh_lib
from masksearch_jax.runtime.types import JsonObject

Params = JsonObject

_REMAT = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


class Transformer(nnx.Module):
    """The decoder, with every parameter of the model.

    embedding [V, D], shift [token_shift, D], blocks (leading axis L), final_norm [D], unembedding [D, V], and adapters
    (leading axis L).
    """

    def __init__(self, cfg: ModelConfig, *, rngs: nnx.Rngs):
        def param(shape, axes, init, dtype=cfg.param_dtype):
            return nnx.Param(init(rngs.params(), shape, jnp.dtype(dtype)), out_sharding=axes)

        def stacked(shape, axes, init, **dtype):
            return param((cfg.layers, *shape), ("layers", *axes), init, **dtype)

        # D ** -0.5 also for the embedding: tied logits then start at standard deviation 1. On a synthetic copying task
        # (Muon, D = 128) the model learned faster with it than with 0.02 or 0.2.
        table = nnx.initializers.normal(cfg.embed**-0.5)
        self.cfg = cfg
        self.embedding = param((cfg.vocab_size, cfg.embed), ("vocab", "embed"), table)
        self.blocks = Block(cfg, param=stacked)
        self.final_norm = param((cfg.embed,), ("norm",), norm_init(cfg))
        if not cfg.tie_embeddings:
            self.unembedding = param((cfg.embed, cfg.vocab_size), ("embed", "vocab"), table)
        if cfg.token_shift:
            # Random sign and size for each channel and distance, so that the model can tell the summands apart.
            self.shift = param((cfg.token_shift, cfg.embed), (None, "norm"), nnx.initializers.normal(0.5))
        # Adapters come last, so that the weights are the same as without adapters for the same seed.
        adapter = functools.partial(stacked, dtype=cfg.lora.dtype) if cfg.lora else stacked
        self.adapters = lora.Adapters(cfg, param=adapter)

    def __call__(
        self, ids: jax.Array, positions: jax.Array, segments: jax.Array, ends: jax.Array | None = None
    ) -> jax.Array:
        """Run over whole sequences: int32 [B, S] each -> normed hidden states [B, S, D]. See the function `forward`."""
        cfg, rope = self.cfg, rope_tables(self.cfg, positions)
        parents = None
        if ends is None:
            starts = jnp.pad(segments[:, 1:] != segments[:, :-1], ((0, 0), (1, 0)), constant_values=True)
        else:
            starts = positions == 0
            if cfg.smear_keys or cfg.token_shift:
                parents = _parents(ends)

        definition, layers = nnx.split((self.blocks, self.adapters))

        local, local_rope = None, rope
        if cfg.local_layers:
            local = jnp.array([index in cfg.local_layers for index in range(cfg.layers)])
            local_rope = rope_tables(cfg, positions, local=True)

        def layer(x, scanned):
            weights, is_local = scanned
            turned = rope
            if is_local is not None:
                turned = jax.tree.map(lambda a, b: jnp.where(is_local, a, b), local_rope, rope)
            attend_rows = functools.partial(
                attend_packed, cfg, segments=segments, local=is_local, ends=ends, positions=positions
            )
            block, adapters = nnx.merge(definition, lora.dequantised(weights))
            return block(x, turned, attend_rows, starts, adapters, parents if cfg.smear_keys else None), None

        if cfg.remat != "none":
            # Inside a scan XLA cannot merge the recomputation with the forward pass, so no barrier against that is
            # needed.
            layer = jax.checkpoint(layer, policy=_REMAT[cfg.remat], prevent_cse=False)
        embedded = self.embed(ids, positions, parents=parents)
        x, _ = jax.lax.scan(layer, embedded, (layers, local), unroll=cfg.scan_unroll)
        return norm(cfg, x, self.final_norm)

    def extend(
        self, cache: Cache, ids: jax.Array, counts: jax.Array, layers: Sequence[Params] | None = None
    ) -> tuple[jax.Array, Cache]:
        """Extend rows of a cache by new tokens ids [B, S] -> (hidden [B, S, D], cache). See the function `extend`."""
        cfg, lengths = self.cfg, cache.lengths
        layers = layers or self.layer_weights()
        counts = jnp.clip(jnp.minimum(counts, jnp.minimum(ids.shape[1], cache.time - lengths)), 0)
        positions = lengths[:, None] + jnp.arange(ids.shape[1])  # [B, S]
        rope = rope_tables(cfg, positions)
        mask = jnp.arange(cache.time) <= positions[:, :, None]  # [B, S, T]
        if cfg.local_layers:
            local = (
                rope_tables(cfg, positions, local=True),
                mask & (jnp.arange(cache.time) > positions[:, :, None] - cfg.window),
            )

        definition = nnx.split((self.blocks, self.adapters))[0]
        last_keys = cache.last_key or (None,) * cfg.layers
        x = self.embed(ids, positions, *cache.last_ids)
        extended = []
        for index, layer in enumerate(zip(cache.k, cache.v, last_keys, strict=True)):
            block, adapters = nnx.merge(definition, layers[index])
            seen = local if index in cfg.local_layers else (rope, mask)
            x, layer = block.extend(x, *seen, layer, lengths, counts, adapters)
            extended.append(layer)
        k, v, last_key = zip(*extended, strict=True)
        newest = (_newest(last, ids, counts) for last in cache.last_ids)
        cache = Cache(
            k=k,
            v=v,
            last_key=last_key if cfg.smear_keys else (),
            last_ids=tuple(newest),
            lengths=lengths + counts,
        )
        return norm(cfg, x, self.final_norm), cache

    @jax.named_scope("embed")
    def embed(
        self,
        ids: jax.Array,
        positions: jax.Array,
        before: jax.Array | None = None,
        parents: jax.Array | None = None,
    ) -> jax.Array:
        """Embed ids, positions int32 [B, S] -> [B, S, D] in the compute dtype.

        before: int32 [B, token_shift], the tokens that precede ids; None where ids start with the first token. parents:
        int32 [B, S], the index of the token before each one; None where that is the token to its left. A token looks
        back only as far as its position allows, so never into another segment.
        """
        cfg, shift, steps = self.cfg, self.cfg.token_shift, ids.shape[1]
        if shift and parents is None:
            ids = jnp.pad(ids, ((0, 0), (shift, 0))) if before is None else jnp.concatenate([before, ids], axis=1)
        # A gather. Its gradient is a scatter-add, which takes 0.24 ms where a one-hot product takes 35 ms (CPU,
        # V = 486).
        x = embedding.lookup(self.embedding[...], ids).astype(cfg.compute_dtype)
        if cfg.scale_embeddings:
            x = x * jnp.array(math.sqrt(cfg.embed), x.dtype)  # 55.43 becomes 55.5 in bfloat16, as Gemma was trained
        if shift:
            weights = self.shift[...].astype(x.dtype)
            if parents is None:
                shifted = [x[:, shift - j : shift - j + steps] for j in range(1, shift + 1)]
                x = x[:, shift:]
            else:
                shifted = [jnp.take_along_axis(x, above[..., None], axis=1) for above in _ancestors(parents, shift)]
            earlier = (
                jnp.where((positions >= j)[..., None], one * weights[j - 1], 0) for j, one in enumerate(shifted, 1)
            )
            x = x + sum(earlier)
        return mesh_lib.constrain(x, "batch", "time", None)

    @jax.named_scope("logits")
    def unembed(self, hidden: jax.Array) -> jax.Array:
        """Return logits [..., V] float32 of hidden states [..., D]."""
        cfg = self.cfg
        weight = self.embedding[...].T if cfg.tie_embeddings else self.unembedding[...]
        logits = jnp.matmul(hidden, weight.astype(hidden.dtype), preferred_element_type=jnp.float32)
        return cfg.logit_softcap * jnp.tanh(logits / cfg.logit_softcap) if cfg.logit_softcap else logits

    def layer_weights(self) -> list[Params]:
        """Return the weights of each layer, dequantised, sliced from the stacked arrays."""
        stacked = nnx.split((self.blocks, self.adapters))[1]
        return [lora.dequantised(jax.tree.map(lambda w, i=index: w[i], stacked)) for index in range(self.cfg.layers)]


def _parents(ends):
    """Return int32 [B, S], the index of the parent of each token of rows that hold trees; a root is its own parent.

    ends: int32 [B, S], as in `forward`. In preorder the parent is the last of the tokens above.
    """
    index = jnp.arange(ends.shape[1])
    above = (index[None, :] < index[:, None]) & (index[:, None] < ends[:, None, :])
    found = jnp.where(above, index, -1).max(axis=-1)
    return jnp.where(found < 0, index, found).astype(jnp.int32)


def _ancestors(parents, count):
    """Yield the index [B, S] of each token's parent, of the parent's parent and so on, `count` times."""
    above = parents
    for distance in range(count):
        above = jnp.take_along_axis(parents, above, axis=1) if distance else parents
        yield above


def _newest(last, ids, counts):
    """Return the last n tokens [B, n] of rows that ended with `last` [B, n] and continue with counts[b] of ids."""
    both = jnp.concatenate([last, ids], axis=1)
    return jnp.take_along_axis(both, counts[:, None] + jnp.arange(last.shape[1]), axis=1)


# The module as functions of a plain tree of arrays, which jax.jit and jax.grad take.


def module(cfg: ModelConfig, params: Params) -> Transformer:
    """Return the module that holds the arrays of params."""
    return nnx.merge(_definition(cfg)[0], {name: x for name, x in params.items() if name != "layers"})


def forward(
    cfg: ModelConfig,
    params: Params,
    ids: jax.Array,
    positions: jax.Array,
    segments: jax.Array,
    ends: jax.Array | None = None,
) -> jax.Array:
    """Run the decoder over whole sequences, for training.

    ids, positions: int32 [B, S]. segments: int32 [B, S]; a token sees itself and the earlier tokens of its own segment,
    and segment 0 is padding (its output is finite and means nothing). Returns the normed hidden states [B, S, D] for
    `unembed` or `logprobs.token_logprobs`. In packed rows each segment is contiguous and its positions restart at 0.
    ends: int32 [B, S] for rows that hold trees of sequences in depth-first preorder; None for plain rows. The token at
    index j of such a row sees that at index i if and only if i <= j < ends[i], and positions are depths.
    """
    return module(cfg, params)(ids, positions, segments, ends)


def extend(
    cfg: ModelConfig,
    params: Params,
    cache: Cache,
    ids: jax.Array,
    counts: jax.Array,
    layers: Sequence[Params] | None = None,
) -> tuple[jax.Array, Cache]:
    """Extend rows of a cache by new tokens: a prompt, an observation, or one sampled token.

    ids: int32 [B, S]; the first counts[b] (int32 [B], 0..S) tokens of row b are new. They continue the row at position
    cache.lengths[b]. A row with count 0 stays unchanged, and tokens beyond the cache's time are dropped.
    Returns (hidden [B, S, D], cache). For s < counts[b], hidden[b, s] equals what `forward` gives on the whole
    sequence; elsewhere it is finite and meaningless. Donate the cache to have it updated in place.
    layers: the result of `layer_weights`, for a loop that computes it once.
    """
    return module(cfg, params).extend(cache, ids, counts, layers or params.get("layers"))


def unembed(cfg: ModelConfig, params: Params, hidden: jax.Array) -> jax.Array:
    """Return logits [..., V] float32 of hidden states [..., D]."""
    return module(cfg, params).unembed(hidden)


def layer_weights(cfg: ModelConfig, params: Params) -> list[Params]:
    """Return the weights of each layer, dequantised, as `extend` uses them.

    Takes them from params['layers'] if they are there, split once for many calls; else slices the stacked arrays.
    """
    return params["layers"] if "layers" in params else module(cfg, params).layer_weights()


# The tree of parameters: shapes, layouts, initial values.


def _build(cfg: ModelConfig, seed: jax.Array | int) -> Transformer:
    # Eager sharding is off, as the layout comes from out_shardings. With threefry instead of rbg, one draw per array
    # takes 5 times as long to compile.
    with nnx.use_eager_sharding(False):
        return Transformer(cfg, rngs=nnx.Rngs(params=jax.random.key(seed, impl="rbg")))


@functools.lru_cache(maxsize=64)
def _definition(cfg: ModelConfig) -> tuple[nnx.GraphDef, nnx.State]:
    """Return the module's structure, and its state with shapes and logical axes but no arrays."""
    # nnx.eval_shape would read the logical axes as axes of the mesh that a caller may have set.
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ())):
        return nnx.split(nnx.eval_shape(lambda: _build(cfg, 0)))


def logical_axes(cfg: ModelConfig) -> Params:
    """Return the tuple of logical axes of every parameter, as a tree like params before quantisation."""
    state = _definition(cfg)[1]
    return nnx.to_pure_dict(
        jax.tree.map(
            lambda p: p.replace(tuple(p.get_metadata()["out_sharding"])),
            state,
            is_leaf=lambda x: isinstance(x, nnx.Variable),
        )
    )


def param_shardings(cfg: ModelConfig, mesh: Mesh, rules: mesh_lib.Rules = mesh_lib.TRAIN) -> Params:
    """Return the NamedSharding of every parameter under `rules`.

    Raises ValueError that names the array that does not fit, and the sizes of the tensor axis that this model allows.
    """

    def one(path, struct, axes):
        name = ".".join(str(key.key) for key in path)
        return mesh_lib.named_sharding(mesh, axes, struct.shape, rules, name)

    shapes = nnx.to_pure_dict(_definition(cfg)[1])
    try:
        return lora.held_shardings(cfg, shapes, jax.tree_util.tree_map_with_path(one, shapes, logical_axes(cfg)))
    except ValueError as error:
        raise ValueError(
            f"{error} A model of {cfg.heads} heads, {cfg.kv_heads} key-value heads, ff = {cfg.ff} and vocab_size ="
            f" {cfg.vocab_size} fits mesh.tensor in {tensor_sizes(cfg)}, and its mesh.fsdp has to divide embed ="
            f" {cfg.embed}."
        ) from None


def tensor_sizes(cfg: ModelConfig) -> tuple[int, ...]:
    """Return the sizes of the mesh's tensor axis over which this model can be sharded.

    Heads, MLP width and vocabulary are divided. Key-value heads are divided too; when there are fewer of them than
    shards and their number divides that of the shards, every shard keeps all of them (mesh.REPLICATED_WHEN_FEWER).
    """

    def fits(shards):
        divided = all(size % shards == 0 for size in (cfg.heads, cfg.ff, cfg.vocab_size))
        return divided and (cfg.kv_heads % shards == 0 or shards % cfg.kv_heads == 0)

    return tuple(filter(fits, range(1, cfg.heads + 1)))


def abstract_params(cfg: ModelConfig, mesh: Mesh, rules: mesh_lib.Rules = mesh_lib.TRAIN) -> Params:
    """Return every parameter as a ShapeDtypeStruct with its sharding, into which a checkpoint can be restored."""
    return jax.tree.map(
        lambda struct, s: jax.ShapeDtypeStruct(struct.shape, struct.dtype, sharding=s),
        jax.eval_shape(functools.partial(lora.held, cfg), nnx.to_pure_dict(_definition(cfg)[1])),
        param_shardings(cfg, mesh, rules),
    )


def init_params(cfg: ModelConfig, seed: int, mesh: Mesh) -> Params:
    """Return initial parameters in their TRAIN layout; the same seed gives the same numbers on any mesh."""
    base = _initialiser(cfg.merged, mesh)(seed)
    return adapt(cfg, base, seed, mesh) if cfg.lora else base


@functools.lru_cache(maxsize=8)
def _initialiser(cfg, mesh):
    return jax.jit(lambda seed: _initial(cfg, seed), out_shardings=param_shardings(cfg, mesh))


def _initial(cfg, seed):
    return nnx.to_pure_dict(nnx.state(_build(cfg, seed)))


def adapt(cfg: ModelConfig, base: Params, seed: int, mesh: Mesh) -> Params:
    """Return params of `cfg` in their TRAIN layout: new adapters over given weights, stored as `cfg.lora` says.

    base: params of `cfg.merged`. The result shares those of its arrays that are not quantised.
    """
    layouts = param_shardings(cfg, mesh)
    layout = lora.split(layouts)[1]
    if cfg.lora and cfg.lora.base_quantisation:
        base = jax.jit(functools.partial(lora.held, cfg), out_shardings=layout)(base)
    adapters = jax.jit(lambda seed: _initial(cfg, seed)["adapters"], out_shardings=layouts["adapters"])(seed)
    return {**base, "adapters": adapters}
