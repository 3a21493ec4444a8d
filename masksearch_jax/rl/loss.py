"""The policy-gradient loss of DAPO (arXiv 2503.14476, equation 8) as functions of arrays.

In: log-probs of the sampled tokens under the policy and under the old policy, advantages, a mask. Out: (sum, count)
pairs, never means. The caller adds them over micro-batches and devices and divides once per mini-batch of the
optimizer, so that no split, packing or sharding changes the gradient. Left out: a KL term and an
entropy bonus, because DAPO has neither. Beside DAPO's clip there is verl's dual clip, which bounds the loss of negative
advantages.

Axes: R rows, T positions. A position stands for the token that it predicts.
"""

import jax
import jax.numpy as jnp

Pair = tuple[jax.Array, jax.Array]

AGGREGATIONS = ("token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm")

# Log ratios are clamped to +-20, as in verl: exp(20) does not overflow, and a larger ratio has no meaning.
LOG_RATIO_LIMIT = 20.0
# Where the bins of the histogram of ratios begin. They are fine where the usual clip lies, from 0.8 to 1.28.
RATIO_EDGES = (0.0, 0.5, 0.7, *(0.8 + 0.025 * number for number in range(21)), 1.5, 2.0, 4.0, 10.0)


def policy_loss(
    logp: jax.Array,
    old_logp: jax.Array,
    advantages: jax.Array,
    mask: jax.Array,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    dual_clip: float = 10.0,
    weights: jax.Array | None = None,
    aggregation: str = "token-mean",
    segments: jax.Array | None = None,
    horizon: int = 0,
    entropy: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array, dict[str, Pair]]:
    """Return (loss sum, count, metrics). The loss of a mini-batch is its total loss sum divided by its total count.

    logp, old_logp: float32 [R, T]. advantages: [R, T], or [R] for rows that hold one sequence. mask: [R, T], nonzero
    where the policy wrote the predicted token. Values outside the mask, NaN included, affect neither loss nor gradient.
    dual_clip: bounds the loss of a token with a negative advantage A by -A * dual_clip (verl); 0 turns it off.
    weights: detached factors per token [R, T], such as `truncated_importance_weights`.
    aggregation, with verl's names: 'token-mean' (DAPO), 'seq-mean-token-sum', 'seq-mean-token-mean' (GRPO),
    'seq-mean-token-sum-norm' (Dr.GRPO, divides by sequences * `horizon`). segments: int [R, T], the number of the
    sequence within its row that a position belongs to, 0 for padding. Without segments each row is one sequence.
    entropy: [R, T], only measured.
    metrics: name -> (sum, count) over masked tokens. They are clip_low, clip_high, dual_clip (fractions of tokens),
    approx_kl (old - new), ratio, ratio_square (together with ratio it gives the effective sample size), and entropy if
    given.
    Raises ValueError for settings out of range or an unknown aggregation.
    """
    validate_loss(clip_low, clip_high, dual_clip, aggregation, horizon)
    mask = mask != 0
    advantages = jnp.broadcast_to(advantages if advantages.ndim == 2 else advantages[:, None], mask.shape)
    advantages = jnp.where(mask, advantages, 0.0)
    log_ratio = _log_ratio(logp, old_logp, mask)
    ratio = jnp.exp(log_ratio)

    unclipped = -advantages * ratio
    clipped = -advantages * jnp.clip(ratio, 1.0 - clip_low, 1.0 + clip_high)
    losses = jnp.maximum(unclipped, clipped)
    is_clipped = clipped > unclipped
    dual = jnp.zeros_like(mask)
    if dual_clip:
        bound = -advantages * dual_clip
        dual = (advantages < 0) & (losses > bound)
        losses = jnp.where(advantages < 0, jnp.minimum(losses, bound), losses)
    if weights is not None:
        losses = losses * jax.lax.stop_gradient(jnp.where(mask, weights, 0.0))
    losses = jnp.where(mask, losses, 0.0)

    tokens = mask.sum(dtype=jnp.float32)
    loss_sum, count = _aggregate(losses, mask, aggregation, segments, horizon)
    measured = {
        "clip_low": is_clipped & (advantages < 0),
        "clip_high": is_clipped & (advantages > 0),
        "dual_clip": dual,
        "approx_kl": -log_ratio,
        "ratio": jnp.where(mask, ratio, 0.0),
        "ratio_square": jnp.where(mask, ratio**2, 0.0),
    }
    if entropy is not None:
        measured["entropy"] = jnp.where(mask, entropy, 0.0)
    metrics = {
        name: (jax.lax.stop_gradient(jnp.where(mask, values, 0).sum(dtype=jnp.float32)), tokens)
        for name, values in measured.items()
    }
    return loss_sum, count, metrics


def truncated_importance_weights(
    old_logp: jax.Array, sampler_logp: jax.Array, mask: jax.Array, cap: float = 2.0
) -> jax.Array:
    """Return truncated importance weights (TIS): min(pi_old / pi_sampler, cap) per token, float32 [R, T].

    They are detached, and 1 outside the mask. They correct for a sampler whose log-probs differ from the trainer's.
    Where old_logp is the sampler's own, the weight is 1.
    """
    return jax.lax.stop_gradient(jnp.minimum(jnp.exp(_log_ratio(old_logp, sampler_logp, mask != 0)), cap))


def ratio_counts(logp: jax.Array, old_logp: jax.Array, mask: jax.Array) -> jax.Array:
    """Return how many tokens have a ratio of at least each of RATIO_EDGES, float32 [len(RATIO_EDGES)], for a histogram.

    logp, old_logp, mask: as in `policy_loss`. Detached.
    """
    ratio = jnp.where(mask != 0, jnp.exp(jax.lax.stop_gradient(_log_ratio(logp, old_logp, mask != 0))), -1.0)
    return jnp.stack([(ratio >= edge).sum(dtype=jnp.float32) for edge in RATIO_EDGES])


def _log_ratio(logp: jax.Array, old_logp: jax.Array, mask: jax.Array) -> jax.Array:
    """Return logp - old_logp, clamped, 0 outside the mask. Masked before the subtraction, because 0 * NaN is NaN."""
    difference = jnp.where(mask, logp, 0.0) - jnp.where(mask, old_logp, 0.0)
    return jnp.clip(difference, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)


def _aggregate(losses: jax.Array, mask: jax.Array, aggregation: str, segments: jax.Array | None, horizon: int) -> Pair:
    """Return (sum, count) of masked token losses [R, T], as verl's agg_loss defines each aggregation."""
    if aggregation == "token-mean":
        return losses.sum(), mask.sum(dtype=jnp.float32)
    tokens = _tokens_per_sequence(mask, segments)  # [R, T + 1], by segment id
    sequences = (tokens > 0).sum(dtype=jnp.float32)
    if aggregation == "seq-mean-token-sum":
        return losses.sum(), sequences
    if aggregation == "seq-mean-token-sum-norm":
        return losses.sum(), sequences * horizon
    own = jnp.ones_like(mask, jnp.int32) if segments is None else segments
    return (losses / jnp.maximum(jnp.take_along_axis(tokens, own, axis=1), 1)).sum(), sequences


def _tokens_per_sequence(mask: jax.Array, segments: jax.Array | None) -> jax.Array:
    """Return the number of masked tokens of each segment id of each row, float32 [R, T + 1]."""
    own = jnp.ones_like(mask, jnp.int32) if segments is None else segments
    rows = jnp.arange(mask.shape[0])[:, None]
    return jnp.zeros((mask.shape[0], mask.shape[1] + 1), jnp.float32).at[rows, own].add(mask)


def validate_loss(clip_low: float, clip_high: float, dual_clip: float, aggregation: str, horizon: int) -> None:
    """Raise ValueError for settings of `policy_loss` out of range or an unknown aggregation."""
    if not 0 <= clip_low <= 1 or clip_high < 0:
        raise ValueError(f"clip_low must lie in [0, 1] and clip_high be at least 0, got {clip_low} and {clip_high}")
    if dual_clip and dual_clip <= 1:
        raise ValueError(f"dual_clip must exceed 1 (0 turns it off), got {dual_clip}")
    if aggregation not in AGGREGATIONS:
        raise ValueError(f"aggregation {aggregation!r} is none of {AGGREGATIONS}")
    if aggregation == "seq-mean-token-sum-norm" and horizon < 1:
        raise ValueError(f"aggregation 'seq-mean-token-sum-norm' needs horizon, the constant length, got {horizon}")
