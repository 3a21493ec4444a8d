"""The state that a training stage carries from step to step, and the update that SFT and DAPO share."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from masksearch_jax.model.policy import Policy
from masksearch_jax.runtime import mesh as mesh_lib
from masksearch_jax.runtime.types import Leaf, Params, Pytree
from masksearch_jax.trainers import optimizer as optimizer_lib

Sums = dict[str, tuple[jax.Array, jax.Array]]
# (params, batch) -> (loss sum, token count, further (sum, count) pairs)
LossFn = Callable[[Params, Pytree], tuple[jax.Array, jax.Array, Sums]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """The state of training.

    step: int32 [], optimizer steps tried. skipped: int32 [], those of them that were refused (`apply_gradients`).
    params and opt_state: pytrees, sharded by the TRAIN rules. params holds what is trained: all parameters, or only the
    adapters. The frozen base of adapters is kept outside the state, and is neither donated nor saved.
    """

    step: Leaf
    skipped: Leaf
    params: Params
    opt_state: Pytree


def state_shardings(policy: Policy, tx: optax.GradientTransformation) -> TrainState:
    """Return a NamedSharding for every leaf of a TrainState."""
    whole = mesh_lib.replicated(policy.mesh)
    moments = optimizer_lib.opt_state_shardings(tx, policy.abstract_trainable)
    return TrainState(whole, whole, policy.trainable_shardings, moments)


def abstract_state(policy: Policy, tx: optax.GradientTransformation) -> TrainState:
    """Return the TrainState as ShapeDtypeStructs with shardings, into which a checkpoint is restored."""
    shapes = jax.eval_shape(lambda p: _fresh(p, tx), policy.abstract_trainable)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, state_shardings(policy, tx)
    )


def create_state(policy: Policy, tx: optax.GradientTransformation, params: Params) -> TrainState:
    """Return a state at step 0 with a copy of the trained part of params, so donation cannot delete the caller's."""
    start = jax.jit(lambda p: _fresh(jax.tree.map(jnp.copy, p), tx), out_shardings=state_shardings(policy, tx))
    return start(policy.split(params)[0])


def _fresh(params: Params, tx: optax.GradientTransformation) -> TrainState:
    return TrainState(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32), params, tx.init(params))


def update(
    loss_fn: LossFn,
    policy: Policy,
    tx: optax.GradientTransformation,
    state: TrainState,
    micro_batches: Pytree,
    base: Params,
) -> tuple[TrainState, Sums]:
    """Take one optimizer step on the mean loss of micro-batches; return the new state and what the log shows of it.

    loss_fn: gets whole params, base included. base: the frozen base, {} without adapters.
    """

    def loss(trainable, rows):
        return loss_fn(policy.merge(trainable, base), rows)

    grads, _, count, sums = accumulate(loss, state.params, micro_batches)
    state, norm, good = apply_gradients(state, tx, grads, count)
    taken, one = good.astype(jnp.float32), jnp.ones(())
    return state, sums | {"grad_norm": (jnp.where(good, norm, 0.0), taken), "skipped": (1.0 - taken, one)}


def accumulate(loss_fn: LossFn, params: Params, micro_batches: Pytree) -> tuple[Params, jax.Array, jax.Array, Sums]:
    """Return (grads, loss sum, count, sums), added over micro-batches; grads is the gradient of the loss sum.

    params: the trained parameters. micro_batches: their number is the leading axis of every leaf.
    Nothing is divided here, so any split into micro-batches gives the same result. The sums are
    float32 whatever the dtype of the parameters, because bfloat16 cannot count beyond 256 in steps of one. So the
    gradient of bfloat16 parameters takes four bytes per parameter.
    """

    def one(batch):
        def loss(p):
            total, count, sums = loss_fn(p, batch)
            return total, (count, sums)

        (total, (count, sums)), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return jax.tree.map(_float32, (grads, total, count, sums))

    splits = jax.tree.leaves(micro_batches)[0].shape[0]
    if splits == 1:
        return one(jax.tree.map(lambda x: x[0], micro_batches))
    zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(one, jax.tree.map(lambda x: x[0], micro_batches))
    )
    carry, _ = jax.lax.scan(lambda acc, b: (jax.tree.map(jnp.add, acc, one(b)), None), zeros, micro_batches)
    return carry


def _float32(x: jax.Array) -> jax.Array:
    return x.astype(jnp.float32)


@jax.named_scope("optimizer")
def apply_gradients(
    state: TrainState, tx: optax.GradientTransformation, grads: Pytree, count: jax.Array
) -> tuple[TrainState, jax.Array, jax.Array]:
    """Take one optimizer step on grads / count. Refuse and count it if the gradient is not finite or count is 0.

    Returns the new state, the global norm of the gradient before clipping, and a bool [], True if the step was taken.
    A refused step changes only the counters `step` and `skipped`.
    """
    grads = jax.tree.map(lambda g: _float32(g) / jnp.maximum(_float32(count), 1), grads)
    norm = optax.global_norm(grads)
    good = jnp.isfinite(norm) & (count > 0)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    taken = TrainState(state.step + 1, state.skipped, optax.apply_updates(state.params, updates), opt_state)
    refused = dataclasses.replace(state, step=state.step + 1, skipped=state.skipped + 1)
    return jax.tree.map(lambda a, b: jnp.where(good, a, b), taken, refused), norm, good
