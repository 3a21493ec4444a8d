"""The device programs of a rollout: prefill, admit, append, decode. Fixed shapes, no host round-trip per token.

Enters and leaves: the KV cache of all slots (donated) and small arrays that the scheduler owns. A slot's cache holds
every token of its episode but the newest; that one is `token` in its register and is fed by the next decode step. So
prompts and observations need no logits, and the first token after them comes from their last position.

Randomness: one uniform number per slot and step, a function of the episode's key and of the position of the token
that it draws. It depends neither on the slot nor on the tick nor on what else is in the batch (design decision 7).
Left out: which slot does what (rollout/scheduler.py), what tokens mean (rollout/episode.py).
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from masksearch_jax import sharding
from masksearch_jax.model import cache as kv
from masksearch_jax.model import transformer
from masksearch_jax.model.config import ModelConfig
from masksearch_jax.rollout.episode import Ending

# Columns of the register array int32 [slots, REGISTERS + W]; the rest is the window of the turn's newest W ids.
TOKEN, BUDGET, KEY0, KEY1 = range(4)
REGISTERS = 4
NO_TOKEN = -2  # in a window: before the turn began
_NONE, _STOP, _EOS, _LIMIT = map(int, Ending)
_ANY_TOKEN = -1  # in a stop pattern: matches everything


@dataclasses.dataclass(frozen=True)
class Sampling:
    """temperature: of the softmax, > 0. top_p, top_k: truncation, 1.0 and 0 for none (ties with the last kept token
    are kept). Log-probs are always those of the whole distribution at this temperature."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0

    def __post_init__(self):
        if not self.temperature > 0:
            raise ValueError(f"Sampling.temperature is {self.temperature}; it has to be > 0 (greedy is asked of run())")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"Sampling.top_p is {self.top_p}; it has to be in (0, 1]")
        if self.top_k < 0:
            raise ValueError(f"Sampling.top_k is {self.top_k}; it has to be >= 0, 0 for no truncation")


def stop_patterns(closing: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    """Returns patterns of one width W that match a turn whose newest ids end in one of the id lists.

    A closing tag of several tokens is matched as those tokens; a tokenizer that may merge its last one with what
    follows needs another rule.
    """
    width = max(map(len, closing))
    return tuple((_ANY_TOKEN,) * (width - len(ids)) + tuple(ids) for ids in closing)


def uniforms(keys: jax.Array, positions: jax.Array) -> jax.Array:
    """Returns float32 [B] in [0, 1): a function of (keys uint32 [B, 2], positions int32 [B]) alone."""

    def one(key, position):
        return jax.random.uniform(jax.random.fold_in(jax.random.wrap_key_data(key, impl="threefry2x32"), position))

    return jax.vmap(one)(keys, positions)


def draw(logits: jax.Array, uniform: jax.Array, sampling: Sampling, greedy: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns tokens int32 [B] and their log-probs float32 [B] from logits float32 [B, V].

    Inverse of the cumulative distribution at `uniform` [B]; the argmax where the scalar `greedy` is true.
    """
    scaled = logits.astype(jnp.float32) / sampling.temperature
    top = scaled.max(axis=-1, keepdims=True)
    weights = jnp.exp(scaled - top)

    def sample():
        kept = _truncate(weights, sampling)
        cumulative = jnp.cumsum(kept, axis=-1)
        # uniform < 1 keeps the threshold strictly under the total, so some index always exceeds it.
        exceeds = (cumulative > uniform[:, None] * cumulative[:, -1:]) & (kept > 0)
        return jnp.argmax(exceeds, axis=-1).astype(jnp.int32)

    token = jax.lax.cond(greedy, lambda: jnp.argmax(scaled, axis=-1).astype(jnp.int32), sample)
    chosen = jnp.take_along_axis(scaled, token[:, None], axis=-1)[:, 0]
    return token, chosen - top[:, 0] - jnp.log(weights.sum(axis=-1))


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


@functools.lru_cache(maxsize=16)
def programs(
    model_cfg: ModelConfig,
    mesh: jax.sharding.Mesh,
    slots: int,
    time: int,
    steps: int,
    sampling: Sampling,
    stops: tuple[tuple[int, ...], ...],
    eos_id: int,
) -> "Programs":
    """Returns the programs for these settings; engines with equal settings share what is compiled."""
    return Programs(model_cfg, mesh, slots, time, steps, sampling, stops, eos_id)


class Programs:
    """The jitted programs of an engine; shapes follow from their arguments, so callers keep to a fixed ladder.

    Raises ValueError if `slots` or the heads do not divide over the mesh.
    """

    def __init__(self, model_cfg, mesh, slots, time, steps, sampling, stops, eos_id):
        self._model_cfg, self._mesh, self._slots, self._time = model_cfg, mesh, slots, time
        layout = kv.cache_shardings(model_cfg, slots, time, mesh)
        small = (sharding.replicated(mesh),) * 4
        stops = np.array(stops, np.int32)
        decode = functools.partial(_decode, model_cfg, sampling, steps, stops, eos_id)
        self.prefill = jax.jit(functools.partial(_prefill, model_cfg, mesh))
        self.admit = jax.jit(_admit, donate_argnums=0, out_shardings=layout)
        self.append = jax.jit(functools.partial(_append, model_cfg), donate_argnums=1, out_shardings=layout)
        self.decode = jax.jit(decode, donate_argnums=1, out_shardings=(layout, small))

    def new_cache(self) -> kv.Cache:
        return kv.init_cache(self._model_cfg, self._slots, self._time, self._mesh)

    @property
    def compiled(self) -> int:
        """Programs compiled so far, all shapes counted."""
        return sum(program._cache_size() for program in (self.prefill, self.admit, self.append, self.decode))


def _prefill(cfg, mesh, params, ids, counts):
    """Prompts ids int32 [P, Lp] with counts [P] -> their cache of P rows and Lp positions."""
    prefix = kv.init_cache(cfg, *ids.shape, mesh)
    return transformer.extend(cfg, params, prefix, ids, counts)[1]


def _admit(cache, prefix, rows, sources):
    """Copies rows `sources` [R] of a prefix cache to slots `rows` [R]; rows >= slots are dropped."""
    return kv.put_rows(cache, rows, kv.take_rows(prefix, sources))


def _append(cfg, params, cache, rows, ids, counts):
    """Appends ids int32 [A, C] (counts [A] of them) to slots `rows` [A]; rows >= slots are dropped."""
    part = kv.take_rows(cache, rows)
    return kv.put_rows(cache, rows, transformer.extend(cfg, params, part, ids, counts)[1])


def _decode(cfg, sampling, steps, stops, eos_id, params, cache, registers, greedy):
    """Up to `steps` tokens for every slot with a budget.

    registers: int32 [B, REGISTERS + W], see the columns above. Returns the cache and (ids int32 [B, steps],
    logprobs float32 [B, steps], counts int32 [B], endings int32 [B]); a slot's tokens are its first `counts`.
    """
    slots = registers.shape[0]
    keys = jax.lax.bitcast_convert_type(registers[:, KEY0 : KEY1 + 1], jnp.uint32)

    def running(state):
        return (state["step"] < steps) & (state["budget"] > 0).any()

    def step(state):
        active = state["budget"] > 0
        hidden, cache = transformer.extend(
            cfg, params, state["cache"], state["token"][:, None], active.astype(jnp.int32)
        )
        logits = transformer.unembed(cfg, params, hidden[:, 0])
        # The cache now ends with the token just fed: its length is the position of the one to draw.
        token, logprob = draw(logits, uniforms(keys, cache.lengths), sampling, greedy)
        token = jnp.where(active, token, state["token"])
        window = jnp.where(active[:, None], jnp.roll(state["window"], -1, axis=1).at[:, -1].set(token), state["window"])
        stopped = ((window[:, None] == stops) | (stops == _ANY_TOKEN)).all(axis=-1).any(axis=-1)
        left = state["budget"] - 1
        ending = jnp.where(left == 0, _LIMIT, _NONE)
        ending = jnp.where(token == eos_id, _EOS, jnp.where(stopped, _STOP, ending))
        column = state["step"]
        return {
            "step": column + 1,
            "cache": cache,
            "token": token,
            "window": window,
            "budget": jnp.where(active & (ending == _NONE), left, 0),
            "ids": state["ids"].at[:, column].set(jnp.where(active, token, 0)),
            "logprobs": state["logprobs"].at[:, column].set(jnp.where(active, logprob, 0.0)),
            "counts": state["counts"] + active,
            "endings": jnp.where(active, ending, state["endings"]),
        }

    state = {
        "step": jnp.int32(0),
        "cache": cache,
        "token": registers[:, TOKEN],
        "window": registers[:, REGISTERS:],
        "budget": registers[:, BUDGET],
        "ids": jnp.zeros((slots, steps), jnp.int32),
        "logprobs": jnp.zeros((slots, steps), jnp.float32),
        "counts": jnp.zeros(slots, jnp.int32),
        "endings": jnp.zeros(slots, jnp.int32),
    }
    state = jax.lax.while_loop(running, step, state)
    return state["cache"], (state["ids"], state["logprobs"], state["counts"], state["endings"])
