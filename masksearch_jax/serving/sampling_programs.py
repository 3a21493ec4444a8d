"""The device programs that a server needs beside those of rollouts: each slot samples in its own way.

The programs of rollouts (rollout/device_programs.py) prefill prompts, copy them to slots and extend slots. Here are two
others. `decode` has a temperature and a top-p for each slot, reports the likeliest tokens, and lets each slot choose
whether a closing tag ends its turn. `score` prefills prompts and returns the log-probs of their tokens. Log-probs are
those of the model's own distribution, at temperature 1.
Left out: which slot does what (serving/engine.py).
"""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from masksearch_jax.model import kv_cache as kv
from masksearch_jax.model import transformer
from masksearch_jax.model.config import ModelConfig
from masksearch_jax.rollout import device_programs
from masksearch_jax.rollout.device_programs import BUDGET, KEY0, KEY1, STATE, TOKEN
from masksearch_jax.rollout.episode import Ending
from masksearch_jax.runtime import mesh as mesh_lib
from masksearch_jax.runtime.types import Params, Pytree
from masksearch_jax.text.stop_automaton import START, StopTable

# The columns of the decode state are those of rollouts and TAGS: 1 where a closing tag ends the turn, else 0.
TAGS = device_programs.STATE_COLUMNS
COLUMNS = TAGS + 1
TEMPERATURE, TOP_P = range(2)  # columns of the settings of each slot, float32 [slots, 2]; temperature 0 is greedy
ALTERNATIVES = 20  # the most tokens that are reported in place of one
_CHUNK = 64  # positions of a prompt whose logits exist at a time
_WHOLE = device_programs.Sampling()
_COLDEST = 1e-5  # logits divided by less would not be finite; at this temperature a draw is greedy but for ties


class SamplingPrograms:
    """The jitted programs; each is compiled once per shape, and once more where alternatives are asked for."""

    def __init__(self, cfg: ModelConfig, mesh: Mesh, slots: int, steps: int, stop_table: StopTable):
        layout, small = kv.cache_shardings(cfg, slots, mesh), mesh_lib.replicated(mesh)
        self.decode = {
            count: jax.jit(
                functools.partial(_decode, cfg, steps, stop_table, count),
                donate_argnums=1,
                out_shardings=(layout, small),
            )
            for count in (0, ALTERNATIVES)
        }
        self.score = jax.jit(functools.partial(_score, cfg, mesh))


def _decode(
    cfg: ModelConfig,
    steps: int,
    stop_table: StopTable,
    alternatives: int,
    params: Params,
    cache: kv.Cache,
    decode_state: jax.Array,
    settings: jax.Array,
) -> tuple[kv.Cache, dict[str, jax.Array]]:
    """Decode up to `steps` tokens in every slot with a budget.

    decode_state: int32 [B, COLUMNS]. settings: float32 [B, 2]. Returns the cache and arrays by name: ids int32 [B,
    steps], logprobs float32 [B, steps], top_ids int32 and top_logprobs float32 [B, steps, alternatives], counts,
    endings and states int32 [B]. The first counts[b] entries of row b are its tokens.
    """
    slots = decode_state.shape[0]
    keys = jax.lax.bitcast_convert_type(decode_state[:, KEY0 : KEY1 + 1], jnp.uint32)
    kinds, transitions = jnp.asarray(stop_table.kinds), jnp.asarray(stop_table.steps)
    tags = decode_state[:, TAGS] > 0

    def running(state: dict[str, Pytree]) -> jax.Array:
        unfinished: jax.Array = (state["step"] < steps) & (state["budget"] > 0).any()
        return unfinished

    def step(state: dict[str, Pytree]) -> dict[str, Pytree]:
        active, column = state["budget"] > 0, state["step"]
        hidden, cache = transformer.extend(
            cfg, params, state["cache"], state["token"][:, None], active.astype(jnp.int32)
        )
        logits = transformer.unembed(cfg, params, hidden[:, 0])
        with jax.named_scope("sample"):
            token = _choose(logits, device_programs.uniforms(keys, cache.lengths), settings)
            logprob, top_logprobs, top_ids = _logprobs(logits, token, alternatives)
        token = jnp.where(active, token, state["token"])
        written = transitions[kinds[token].astype(jnp.int32), state["written"]]
        # In a slot without tags a complete tag is text like any other.
        written = jnp.where(~tags & (written == stop_table.stopped), START, written)
        written = jnp.where(active, written, state["written"])
        left = state["budget"] - 1
        ending = jnp.where(left == 0, int(Ending.LIMIT), int(Ending.NONE))
        ending = jnp.where(written == stop_table.stopped, int(Ending.STOP), ending)
        ending = jnp.where(written == stop_table.ended, int(Ending.EOS), ending)

        def put(name: str, value: jax.Array) -> jax.Array:
            kept = active.reshape(-1, *(1,) * (value.ndim - 1))
            into: jax.Array = state[name].at[:, column].set(jnp.where(kept, value, 0).astype(state[name].dtype))
            return into

        return {
            "step": column + 1,
            "cache": cache,
            "token": token,
            "written": written,
            "budget": jnp.where(active & (ending == int(Ending.NONE)), left, 0),
            "ids": put("ids", token),
            "logprobs": put("logprobs", logprob),
            "top_ids": put("top_ids", top_ids),
            "top_logprobs": put("top_logprobs", top_logprobs),
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
        "top_ids": jnp.zeros((slots, steps, alternatives), jnp.int32),
        "top_logprobs": jnp.zeros((slots, steps, alternatives), jnp.float32),
        "counts": jnp.zeros(slots, jnp.int32),
        "endings": jnp.zeros(slots, jnp.int32),
    }
    state = jax.lax.while_loop(running, step, state)
    names = ("ids", "logprobs", "top_ids", "top_logprobs", "counts", "endings")
    return state["cache"], {name: state[name] for name in names} | {"states": state["written"]}


def _choose(logits: jax.Array, uniform: jax.Array, settings: jax.Array) -> jax.Array:
    """Return a token int32 [B] for each row of logits [B, V], greedy where the temperature is 0."""
    temperature, top_p = settings[:, TEMPERATURE], settings[:, TOP_P]
    greedy = jnp.argmax(logits, axis=-1).astype(jnp.int32)

    def sample() -> jax.Array:
        scaled = logits / jnp.where(temperature > 0, jnp.maximum(temperature, _COLDEST), 1.0)[:, None]
        kept = jax.lax.cond((top_p < 1).any(), lambda: _nucleus(scaled, top_p), lambda: scaled)
        drawn, _ = device_programs.draw(kept, uniform, _WHOLE, jnp.bool_(False))
        return jnp.where(temperature > 0, drawn, greedy)

    chosen: jax.Array = jax.lax.cond((temperature > 0).any(), sample, lambda: greedy)
    return chosen


def _nucleus(logits: jax.Array, top_p: jax.Array) -> jax.Array:
    """Return logits [B, V] with -inf for tokens outside of the likeliest that hold `top_p` [B] of the probability.

    Tokens that tie with the last one kept are kept, as in rollouts. The likeliest one is kept in any case.
    """
    ranked = -jnp.sort(-logits, axis=-1)
    weights = jax.nn.softmax(ranked, axis=-1)
    kept = (jnp.cumsum(weights, axis=-1) - weights < top_p[:, None]).at[:, 0].set(True)
    least = jnp.where(kept, ranked, jnp.inf).min(axis=-1, keepdims=True)
    return jnp.where(logits >= least, logits, -jnp.inf)


def _logprobs(logits: jax.Array, chosen: jax.Array, alternatives: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the log-probs of tokens `chosen` [..], and the log-probs and ids [.., alternatives] of the likeliest."""
    total = jax.nn.logsumexp(logits, axis=-1)
    own = jnp.take_along_axis(logits, chosen[..., None], axis=-1)[..., 0] - total
    best, ids = jax.lax.top_k(logits, alternatives)
    return own, best - total[..., None], ids


def _score(
    cfg: ModelConfig, mesh: Mesh, params: Params, ids: jax.Array, counts: jax.Array, targets: jax.Array
) -> tuple[kv.Cache, dict[str, jax.Array]]:
    """Prefill prompts ids int32 [P, L] with counts [P] tokens, and score the token that follows each position.

    targets: int32 [P, L], the token after each position. Returns the cache of the prompts and arrays by name: logprobs
    float32 [P, L], top_ids int32 and top_logprobs float32 [P, L, ALTERNATIVES]; of a row's positions from counts[b] on
    they mean nothing.
    """
    rows, length = ids.shape
    hidden, cache = transformer.extend(cfg, params, kv.init_cache(cfg, rows, length, mesh), ids, counts)
    size = min(_CHUNK, length)
    parts = -(-length // size)

    def cut(x: jax.Array) -> jax.Array:
        tail = x.shape[2:]
        padded = jnp.pad(x, [(0, 0), (0, parts * size - length), *[(0, 0)] * len(tail)])
        return jnp.moveaxis(padded.reshape(rows, parts, size, *tail), 1, 0)

    def joined(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(x, 0, 1).reshape(rows, parts * size, *x.shape[3:])[:, :length]

    def one(part: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        states, chosen = part
        return _logprobs(transformer.unembed(cfg, params, states), chosen, ALTERNATIVES)

    logprobs, top_logprobs, top_ids = jax.lax.map(one, (cut(hidden), cut(targets)))
    found = {"logprobs": logprobs, "top_ids": top_ids, "top_logprobs": top_logprobs}
    return cache, {name: joined(value) for name, value in found.items()}
