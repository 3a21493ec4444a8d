"""The device programs of a rollout: prefill, insert, extend, decode. Fixed shapes, no host round-trip per token.

The programs take and return the KV cache of all slots (donated) and small arrays that the scheduler owns. A slot's
cache holds every token of its episode except the newest one. The newest token is in the slot's decode state (column
TOKEN), and the next decode step feeds it to the model. So prefilling prompts and extending by observations needs no
logits: the decode step that feeds their last token draws the first token after them.

Randomness: each slot uses one uniform number per decode step. It is a function of the episode's key and of the position
of the token that is drawn. It depends neither on the slot nor on the engine step nor on the rest of the batch.
Left out: which slot does what (rollout/scheduler.py), what tokens mean (rollout/episode.py).
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from masksearch_jax.model import kv_cache as kv
from masksearch_jax.model import transformer
from masksearch_jax.model.config import ModelConfig
from masksearch_jax.rollout.episode import Ending
from masksearch_jax.runtime import mesh as mesh_lib
from masksearch_jax.runtime.types import Params, Pytree
from masksearch_jax.text.stop_automaton import StopTable

# Columns of the decode state, int32 [slots, STATE_COLUMNS]. STATE is the state of the stop automaton: how much of a
# closing tag the turn has written (text/stop_automaton.py).
TOKEN, BUDGET, KEY0, KEY1, STATE = range(5)
STATE_COLUMNS = 5
_NONE, _STOP, _EOS, _LIMIT = map(int, Ending)
_TILE = 128  # tokens in a tile of the vocabulary, in `_invert`


@dataclasses.dataclass(frozen=True)
class Sampling:
    """The settings of sampling.

    temperature: of the softmax, > 0. top_p, top_k: truncation; 1.0 and 0 turn it off. Tokens that tie with the last
    kept token are kept. Log-probs are always those of the whole distribution at this temperature.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"Sampling.temperature is {self.temperature}; it has to be > 0 (greedy is asked of run())")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"Sampling.top_p is {self.top_p}; it has to be in (0, 1]")
        if self.top_k < 0:
            raise ValueError(f"Sampling.top_k is {self.top_k}; it has to be >= 0, 0 for no truncation")


def uniforms(keys: jax.Array, positions: jax.Array) -> jax.Array:
    """Return uniform numbers float32 [B] in [0, 1), a function of keys uint32 [B, 2] and positions int32 [B] alone."""

    def one(key: jax.Array, position: jax.Array) -> jax.Array:
        return jax.random.uniform(jax.random.fold_in(jax.random.wrap_key_data(key, impl="threefry2x32"), position))

    return jax.vmap(one)(keys, positions)


def draw(logits: jax.Array, uniform: jax.Array, sampling: Sampling, greedy: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return tokens int32 [B] drawn from logits float32 [B, V], and their log-probs float32 [B].

    The token is the inverse of the cumulative distribution at `uniform` [B], or the argmax if the scalar `greedy` is
    true.
    """
    scaled = logits.astype(jnp.float32) / sampling.temperature
    top = scaled.max(axis=-1, keepdims=True)
    weights = jnp.exp(scaled - top)

    def sample() -> jax.Array:
        return _invert(_truncate(weights, sampling), uniform)

    token = jax.lax.cond(greedy, lambda: jnp.argmax(scaled, axis=-1).astype(jnp.int32), sample)
    chosen = jnp.take_along_axis(scaled, token[:, None], axis=-1)[:, 0]
    return token, chosen - top[:, 0] - jnp.log(weights.sum(axis=-1))


def _invert(weights: jax.Array, uniform: jax.Array) -> jax.Array:
    """Return int32 [B]: the index at which the cumulative sum of weights [B, V] passes `uniform` [B] of their total.

    The search has two steps: over the sums of tiles of the vocabulary, and then inside one tile. A cumulative sum over
    the whole vocabulary took half as long on CPU as the product with the unembedding.
    """
    batch, size = weights.shape
    tiles = jnp.pad(weights, ((0, 0), (0, -size % _TILE))).reshape(batch, -1, _TILE)

    def pick(parts: jax.Array, target: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the index [B, 1] of the first of `parts` [B, P] at which the cumulative sum exceeds `target` [B].

        Parts without weight are passed over. Also return [B], how far `target` lies inside that part.
        """
        cumulative = jnp.cumsum(parts, axis=-1)
        # Rounding may leave a target that no cumulative sum exceeds. The last part with weight is taken then.
        last = parts.shape[-1] - 1 - jnp.argmax(parts[:, ::-1] > 0, axis=-1)
        exceeds = (cumulative > target[:, None]) & (parts > 0)
        at = jnp.where(exceeds.any(axis=-1), jnp.argmax(exceeds, axis=-1), last)[:, None]
        return at, target - jnp.take_along_axis(cumulative - parts, at, axis=-1)[:, 0]

    sums = tiles.sum(axis=-1)
    tile, rest = pick(sums, uniform * sums.sum(axis=-1))
    within, _ = pick(jnp.take_along_axis(tiles, tile[:, :, None], axis=1)[:, 0], rest)
    # Only weights that are not finite can select the padding. The id has to be inside the vocabulary even then.
    return jnp.minimum(tile * _TILE + within, size - 1)[:, 0].astype(jnp.int32)


def _truncate(weights: jax.Array, sampling: Sampling) -> jax.Array:
    if sampling.top_p == 1.0 and sampling.top_k == 0:
        return weights
    ranked = -jnp.sort(-weights, axis=-1)
    before = jnp.cumsum(ranked, axis=-1) - ranked
    kept = before < sampling.top_p * ranked.sum(axis=-1, keepdims=True)
    if sampling.top_k:
        kept &= jnp.arange(ranked.shape[-1]) < sampling.top_k
    least = jnp.where(kept, ranked, jnp.inf).min(axis=-1, keepdims=True)
    return jnp.where(weights >= least, weights, 0.0)


class Programs:
    """The jitted programs of an engine. Shapes follow from the arguments, so callers use a fixed set of buckets.

    ends: where each block of the cache ends in time; the last end is the capacity of a slot. `extend`, `copy_slots`
    and `decode` take the first blocks of a cache (`kv_cache.split`), and their cost depends on the size of these only.
    Raises ValueError if `slots` or the heads do not divide over the mesh.
    """

    def __init__(
        self,
        model_cfg: ModelConfig,
        mesh: Mesh,
        slots: int,
        ends: tuple[int, ...],
        steps: int,
        sampling: Sampling,
        stop_table: StopTable,
    ) -> None:
        self._model_cfg, self._mesh, self._slots, self._ends = model_cfg, mesh, slots, ends
        layout = kv.cache_shardings(model_cfg, slots, mesh)
        small = (mesh_lib.replicated(mesh),) * 4
        decode = functools.partial(_decode, model_cfg, mesh, sampling, steps, stop_table)
        self.prefill = jax.jit(functools.partial(_prefill, model_cfg, mesh))
        self.insert = jax.jit(_insert, donate_argnums=0, out_shardings=layout)
        self.extend = jax.jit(functools.partial(_extend, model_cfg, mesh), donate_argnums=1, out_shardings=layout)
        self.copy_slots = jax.jit(functools.partial(_copy_slots, mesh), donate_argnums=0, out_shardings=layout)
        self.decode = jax.jit(decode, donate_argnums=1, out_shardings=(layout, small))
        self._layers = jax.jit(functools.partial(transformer.layer_weights, model_cfg))

    def prepare(self, params: Params) -> Params:
        """Return the parameters in the form that the programs read fastest; valid for all calls with these parameters.

        On CPU, XLA copies a slice of a stacked array wherever the slice is used. That took half of the time of a decode
        of 4 steps with 135 million parameters. So on CPU the weights of each layer become separate arrays. Other
        platforms read slices in place.
        """
        if not _on_cpu(self._mesh):
            return params
        return {**params, "layers": self._layers(params)}

    def new_cache(self) -> kv.Cache:
        return kv.init_cache(self._model_cfg, self._slots, self._ends, self._mesh)

    @property
    def compiled(self) -> int:
        """The number of programs compiled so far; each shape counts as one."""
        programs = (self.prefill, self.insert, self.extend, self.copy_slots, self.decode, self._layers)
        # JAX has no public name for the number of compilations.
        return sum(program._cache_size() for program in programs)  # type: ignore[attr-defined]


programs = functools.lru_cache(maxsize=16)(Programs)  # engines with equal settings share the compiled programs


def _on_cpu(mesh: Mesh) -> bool:
    return bool(mesh.devices.flat[0].platform == "cpu")


def _prefill(cfg: ModelConfig, mesh: Mesh, params: Params, ids: jax.Array, counts: jax.Array) -> kv.Cache:
    """Return the cache, of P rows and Lp positions, of prompts ids int32 [P, Lp] with counts [P] tokens."""
    rows, length = ids.shape
    prefix = kv.init_cache(cfg, rows, length, mesh)
    return transformer.extend(cfg, params, prefix, ids, counts)[1]


def _insert(cache: kv.Cache, prefix: kv.Cache, rows: jax.Array, sources: jax.Array) -> kv.Cache:
    """Copy rows `sources` [R] of a prefix cache to slots `rows` [R]. Entries with rows >= slots are dropped."""
    return kv.put_rows(cache, rows, kv.take_rows(prefix, sources))


def _extend(
    cfg: ModelConfig,
    mesh: Mesh,
    params: Params,
    cache: kv.Cache,
    rows: jax.Array,
    ids: jax.Array,
    counts: jax.Array,
) -> kv.Cache:
    """Append the first counts [A] tokens of each row of ids int32 [A, C] to slots `rows` [A].

    Entries with rows >= slots are dropped. cache: the first blocks, long enough for these slots and the new tokens.

    With D shards, shard d reads the d-th A / D of the entries (`bucketing.shard_chunks`), so that no part of the cache
    crosses devices. An entry is dropped if its slot belongs to another shard.
    """
    shards = _shards(mesh)
    if shards == 1:
        part = kv.take_rows(cache, rows)
        return kv.put_rows(cache, rows, transformer.extend(cfg, params, part, ids, counts)[1])
    if rows.shape[0] % shards:
        raise ValueError(f"an extension of {rows.shape[0]} rows does not divide over the {shards} shards of the slots")
    own, split = _own(rows, cache, mesh), _split(cache, mesh)
    part = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), _pinned(jax.vmap(kv.take_rows)(split, own), mesh))
    part = transformer.extend(cfg, params, part, ids, counts)[1]
    return _joined(jax.vmap(kv.put_rows)(split, own, _split(part, mesh)), mesh)


def _copy_slots(mesh: Mesh, cache: kv.Cache, rows: jax.Array, sources: jax.Array) -> kv.Cache:
    """Copy slots `sources` [R] to slots `rows` [R]. Entries with rows >= slots are dropped.

    cache: the first blocks, long enough for these slots. With several shards the entries are laid out as those of
    `_extend`, and a source belongs to the shard of its entry.
    """
    if _shards(mesh) == 1:
        return kv.copy_rows(cache, rows, sources)
    own = (_own(rows, cache, mesh), _own(sources, cache, mesh))
    return _joined(jax.vmap(kv.copy_rows)(_split(cache, mesh), *own), mesh)


def _shards(mesh: Mesh) -> int:
    return int(mesh.shape["data"] * mesh.shape["fsdp"])


def _own(slots: jax.Array, cache: kv.Cache, mesh: Mesh) -> jax.Array:
    """Return slots [R] as rows int32 [shards, R / shards] of the shards' own parts of the cache."""
    shards = _shards(mesh)
    return slots.reshape(shards, -1) - np.arange(shards, dtype=np.int32)[:, None] * (cache.batch // shards)


def _split(cache: kv.Cache, mesh: Mesh) -> kv.Cache:
    """Return a cache with the row axis of every array reshaped to [shards, rows per shard]."""
    shards = _shards(mesh)
    return _pinned(jax.tree.map(lambda x: x.reshape(shards, -1, *x.shape[1:]), cache), mesh)


def _joined(split: kv.Cache, mesh: Mesh) -> kv.Cache:
    """Undo `_split`."""
    joined: kv.Cache = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), _pinned(split, mesh))
    return joined


def _pinned(tree: kv.Cache, mesh: Mesh) -> kv.Cache:
    """Constrain the leading axis of every array to the (data, fsdp) shards; the other axes are left free."""

    def pin(x: jax.Array) -> jax.Array:
        spec = PartitionSpec(("data", "fsdp"), *(PartitionSpec.UNCONSTRAINED,) * (x.ndim - 1))
        pinned: jax.Array = jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))
        return pinned

    constrained: kv.Cache = jax.tree.map(pin, tree)
    return constrained


def _decode(
    cfg: ModelConfig,
    mesh: Mesh,
    sampling: Sampling,
    steps: int,
    stop_table: StopTable,
    params: Params,
    cache: kv.Cache,
    decode_state: jax.Array,
    greedy: jax.Array,
) -> tuple[kv.Cache, tuple[jax.Array, jax.Array, jax.Array, jax.Array]]:
    """Decode up to `steps` tokens in every slot with a budget.

    decode_state: int32 [B, STATE_COLUMNS], see the columns above. Returns the cache and (ids int32 [B, steps], logprobs
    float32 [B, steps], counts int32 [B], endings int32 [B]). The first counts[b] entries of row b are its tokens.
    """
    slots = decode_state.shape[0]
    keys = jax.lax.bitcast_convert_type(decode_state[:, KEY0 : KEY1 + 1], jnp.uint32)
    kinds, transitions = jnp.asarray(stop_table.kinds), jnp.asarray(stop_table.steps)
    layers = transformer.layer_weights(cfg, params) if _on_cpu(mesh) else None

    def running(state: dict[str, Pytree]) -> jax.Array:
        unfinished: jax.Array = (state["step"] < steps) & (state["budget"] > 0).any()
        return unfinished

    def step(state: dict[str, Pytree]) -> dict[str, Pytree]:
        active = state["budget"] > 0
        hidden, cache = transformer.extend(
            cfg, params, state["cache"], state["token"][:, None], active.astype(jnp.int32), layers
        )
        logits = transformer.unembed(cfg, params, hidden[:, 0])
        # The cache now ends with the token that was just fed, so its length is the position of the token to draw.
        with jax.named_scope("sample"):
            token, logprob = draw(logits, uniforms(keys, cache.lengths), sampling, greedy)
        token = jnp.where(active, token, state["token"])
        written = jnp.where(active, transitions[kinds[token].astype(jnp.int32), state["written"]], state["written"])
        left = state["budget"] - 1
        ending = jnp.where(left == 0, _LIMIT, _NONE)
        ending = jnp.where(written == stop_table.ended, _EOS, jnp.where(written == stop_table.stopped, _STOP, ending))
        column = state["step"]
        return {
            "step": column + 1,
            "cache": cache,
            "token": token,
            "written": written,
            "budget": jnp.where(active & (ending == _NONE), left, 0),
            "ids": state["ids"].at[:, column].set(jnp.where(active, token, 0)),
            "logprobs": state["logprobs"].at[:, column].set(jnp.where(active, logprob, 0.0)),
            "counts": state["counts"] + active,
            "endings": jnp.where(active, ending, state["endings"]),
        }

    state = {
        "step": jnp.int32(0),
        "cache": cache,
        "token": decode_state[:, TOKEN],
        "written": decode_state[:, STATE],
        "budget": decode_state[:, BUDGET],
        "ids": jnp.zeros((slots, steps), jnp.int32),
        "logprobs": jnp.zeros((slots, steps), jnp.float32),
        "counts": jnp.zeros(slots, jnp.int32),
        "endings": jnp.zeros(slots, jnp.int32),
    }
    state = jax.lax.while_loop(running, step, state)
    return state["cache"], (state["ids"], state["logprobs"], state["counts"], state["endings"])
