"""Log-probabilities and entropies of target tokens in float32. At most one chunk of logits exists at a time.

Enters: hidden states of `transformer.forward` or `extend`. Leaves: per-token numbers, not summed. Where only some
targets are trained on (a policy's own tokens are a sixth of its episodes here), chunks without such a target are
skipped.
"""

import jax
import jax.numpy as jnp

from masksearch_jax.model import transformer
from masksearch_jax.model.config import ModelConfig
from masksearch_jax.runtime import mesh as mesh_lib

# Chunks that a row is cut into when some of its targets are not wanted. A chunk in which no row wants a target is
# skipped.
_FEWEST_CHUNKS = 8


@jax.named_scope("log_probs")
def token_logprobs(
    cfg: ModelConfig,
    params: transformer.Params,
    hidden: jax.Array,
    targets: jax.Array,
    temperature: jax.Array | float = 1.0,
    chunk: int = 4096,
    wanted: jax.Array | None = None,
    sources: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Return log p(target) and the entropy of p = softmax(logits / temperature), differentiable in params and hidden.

    hidden: [..., S, D]. targets: int32 [..., S]. temperature: above 0. chunk: how many tokens' logits exist at a time
    on a shard of the batch, in the forward and in the backward pass. Only S is cut into chunks, so that rows stay on
    their shards. wanted: bool [..., S], None for all; targets that are not wanted cost next to nothing and give 0.
    sources: int32 [..., S], the index of the hidden state that predicts each target; None if that is the target's own
    index. With sources the wanted targets are expected at the front of each row.
    Returns two float32 arrays [..., S]. A target outside [0, V) gives a finite number that means nothing.
    """
    steps, width = hidden.shape[-2:]
    # Rows of one shard. Counting the rows of all shards, 1024 shards would compute 4 tokens at a time and gather the
    # weights for each.
    rows = max(1, hidden.size // (steps * width) // mesh_lib.batch_shards())
    steps_a_chunk = max(1, chunk // rows)
    if sources is not None:
        hidden = jnp.take_along_axis(hidden, sources[..., None], axis=-2)
    if wanted is None:
        if steps_a_chunk >= steps:
            return _logprobs(cfg, params, hidden, targets, temperature)
        return _in_chunks(cfg, params, hidden, targets, temperature, jnp.ones(targets.shape, bool), steps_a_chunk)
    steps_a_chunk = min(steps_a_chunk, -(-steps // _FEWEST_CHUNKS))
    if sources is not None:
        found = _in_chunks(cfg, params, hidden, targets, temperature, wanted, steps_a_chunk)
        return jnp.where(wanted, found[0], 0.0), jnp.where(wanted, found[1], 0.0)
    # Move wanted targets to the front of each row, so that the chunks at its end hold none.
    order = jnp.argsort(~wanted, axis=-1, stable=True)
    front = tuple(jnp.take_along_axis(x, order, axis=-1) for x in (targets, wanted))
    hidden = jnp.take_along_axis(hidden, order[..., None], axis=-2)
    found = _in_chunks(cfg, params, hidden, front[0], temperature, front[1], steps_a_chunk)
    back = jnp.argsort(order, axis=-1)
    logp, entropy = (jnp.where(wanted, jnp.take_along_axis(x, back, axis=-1), 0.0) for x in found)
    return logp, entropy


def _in_chunks(cfg, params, hidden, targets, temperature, wanted, steps_a_chunk):
    """Compute `_logprobs` for `steps_a_chunk` steps at a time; a chunk without a wanted target gives zeros."""
    lead, (steps, width) = hidden.shape[:-2], hidden.shape[-2:]
    count, axis = -(-steps // steps_a_chunk), len(lead)
    pad = [(0, 0)] * axis + [(0, count * steps_a_chunk - steps)]

    def cut(x, *tail):
        padded = jnp.pad(x, pad + [(0, 0)] * len(tail))
        return jnp.moveaxis(padded.reshape(*lead, count, steps_a_chunk, *tail), axis, 0)

    # Recomputed in the backward pass: otherwise the scan would keep the logits of every chunk.
    @jax.checkpoint
    def one(slice_):
        states, ids, some = slice_
        zeros = jnp.zeros(ids.shape, jnp.float32)
        return jax.lax.cond(
            some.any(), lambda: _logprobs(cfg, params, states, ids, temperature), lambda: (zeros, zeros)
        )

    chunks = jax.lax.map(one, (cut(hidden, width), cut(targets), cut(wanted)))
    return tuple(jnp.moveaxis(x, 0, axis).reshape(*lead, count * steps_a_chunk)[..., :steps] for x in chunks)


def _logprobs(cfg, params, hidden, targets, temperature):
    logits = transformer.unembed(cfg, params, hidden) / temperature
    lse = jax.nn.logsumexp(logits, axis=-1)
    # Select and sum. Unlike a gather, this works on logits that are sharded over the vocabulary.
    hit = jnp.arange(logits.shape[-1]) == targets[..., None]
    logp = jnp.sum(jnp.where(hit, logits, 0), axis=-1) - lse
    entropy = lse - jnp.sum(jnp.exp(logits - lse[..., None]) * logits, axis=-1)
    return logp, entropy
