"""The two programs of a DAPO update: old log-probs by the trainer, and one optimizer step."""

import functools

import jax
import optax

from masksearch_jax.model.policy import Policy
from masksearch_jax.rl import loss, update_batch
from masksearch_jax.runtime.types import Params
from masksearch_jax.trainers import state as state_lib
from masksearch_jax.trainers.stage_settings import DapoSettings
from masksearch_jax.trainers.updates import update_sharding

_policy_loss = jax.named_scope("loss")(loss.policy_loss)


def policy_logprobs(policy: Policy, temperature: float, params: Params, rows: update_batch.UpdateBatch):
    """Return (log-prob, entropy) of the targets that the policy sampled, float32 [R, T], 0 for all other targets.

    temperature: that of the sampler.
    """
    return policy.log_probs(
        params, rows.ids, rows.positions, rows.segments, rows.targets, rows.mask, temperature, rows.ends, rows.sources
    )


def loss_fn(policy: Policy, settings: DapoSettings, params: Params, rows: update_batch.UpdateBatch):
    """Return the clipped token-level loss of one micro-batch as (sum, count, metrics); DAPO equation 8."""
    logp, entropy = policy_logprobs(policy, settings.temperature, params, rows)
    weights = None
    if settings.tis_cap:
        weights = loss.truncated_importance_weights(rows.old_logp, rows.sampler_logp, rows.mask, settings.tis_cap)
    total, count, sums = _policy_loss(
        logp,
        rows.old_logp,
        rows.advantages,
        rows.mask,
        settings.clip_low,
        settings.clip_high,
        settings.dual_clip,
        weights=weights,
        aggregation=settings.aggregation,
        segments=rows.target_sequences,
        horizon=max(settings.row_lengths),
        entropy=jax.lax.stop_gradient(entropy),
    )
    reached = loss.ratio_counts(logp, rows.old_logp, rows.mask)
    return total, count, sums | {"loss": (total, count), "ratio_counts": (reached, count)}


def make_programs(
    policy: Policy, settings: DapoSettings, tx: optax.GradientTransformation
) -> tuple[jax.stages.Wrapped, jax.stages.Wrapped]:
    """Return two jitted programs: (trainable, UpdateBatch, base) -> log-probs [M, R, T] of the trainer, and (state,
    UpdateBatch, base) -> (state, sums). The state is donated.

    base: the frozen base, {} without adapters.
    """
    shardings, rows = state_lib.state_shardings(policy, tx), update_sharding(policy.mesh)
    base_shardings = policy.base_shardings

    def old_logprobs(trainable, update, base):
        params = policy.merge(trainable, base)
        return jax.lax.map(lambda one: policy_logprobs(policy, settings.temperature, params, one)[0], update)

    def step(state, update, base):
        return state_lib.update(functools.partial(loss_fn, policy, settings), policy, tx, state, update, base)

    return (
        jax.jit(old_logprobs, in_shardings=(shardings.params, rows, base_shardings), out_shardings=rows),
        jax.jit(
            step, in_shardings=(shardings, rows, base_shardings), out_shardings=(shardings, None), donate_argnums=0
        ),
    )
