"""Log-probabilities and entropies of target tokens, float32, without ever holding more than a chunk of logits.

Enters: hidden states of `transformer.forward` or `extend`. Leaves: per-token numbers, not summed and not masked.
"""

import jax
import jax.numpy as jnp

from masksearch_jax.model import transformer
from masksearch_jax.model.config import ModelConfig


def token_logprobs(
    cfg: ModelConfig,
    params: transformer.Params,
    hidden: jax.Array,
    targets: jax.Array,
    temperature: jax.Array | float = 1.0,
    chunk: int = 4096,
) -> tuple[jax.Array, jax.Array]:
    """log p(target) and the entropy of p = softmax(logits / temperature), differentiable in params and hidden.

    hidden: [..., S, D]. targets: int32 [..., S]. temperature: above 0. chunk: tokens whose logits exist at a time, in
    the forward and in the backward pass; S is cut, so that a batch sharded over its rows stays sharded.
    Returns two float32 arrays [..., S]. A target outside [0, V) gives a finite number that means nothing.
    """
    lead, (steps, width) = hidden.shape[:-2], hidden.shape[-2:]
    rows = max(1, hidden.size // (steps * width))
    piece = max(1, chunk // rows)
    if piece >= steps:
        return _logprobs(cfg, params, hidden, targets, temperature)
    count = -(-steps // piece)
    pad = count * piece - steps
    hidden = jnp.pad(hidden, [(0, 0)] * len(lead) + [(0, pad), (0, 0)]).reshape(*lead, count, piece, width)
    targets = jnp.pad(targets, [(0, 0)] * len(lead) + [(0, pad)]).reshape(*lead, count, piece)

    # Recomputed in the backward pass: the scan would otherwise keep the logits of every chunk.
    @jax.checkpoint
    def one(slice_):
        return _logprobs(cfg, params, *slice_, temperature)

    axis = len(lead)
    pieces = jax.lax.map(one, (jnp.moveaxis(hidden, axis, 0), jnp.moveaxis(targets, axis, 0)))
    return tuple(jnp.moveaxis(x, 0, axis).reshape(*lead, count * piece)[..., :steps] for x in pieces)


def _logprobs(cfg, params, hidden, targets, temperature):
    logits = transformer.unembed(cfg, params, hidden) / temperature
    lse = jax.nn.logsumexp(logits, axis=-1)
    # Select and sum: unlike a gather it works on logits that are sharded over the vocabulary.
    hit = jnp.arange(logits.shape[-1]) == targets[..., None]
    logp = jnp.sum(jnp.where(hit, logits, 0), axis=-1) - lse
    entropy = lse - jnp.sum(jnp.exp(logits - lse[..., None]) * logits, axis=-1)
    return logp, entropy
