"""What a training job carries from step to step, and the one update that SFT and DAPO share."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from masksearch_jax import sharding
from masksearch_jax.model import transformer
from masksearch_jax.model.config import ModelConfig
from masksearch_jax.trainers import optimizer as optimizer_lib

Sums = dict[str, tuple[jax.Array, jax.Array]]
# (params, batch) -> (loss sum, token count, further (sum, count) pairs)
LossFn = Callable[[Any, Any], tuple[jax.Array, jax.Array, Sums]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """step: int32 [], optimizer steps taken. skipped: int32 [], steps refused for non-finite gradients. params and
    opt_state: pytrees, sharded by the TRAIN rules."""

    step: jax.Array
    skipped: jax.Array
    params: Any
    opt_state: Any


def state_shardings(model_cfg: ModelConfig, tx: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """NamedSharding for every leaf of a TrainState."""
    abstract = transformer.abstract_params(model_cfg, mesh)
    params = transformer.param_shardings(model_cfg, mesh)
    whole = sharding.replicated(mesh)
    return TrainState(whole, whole, params, optimizer_lib.opt_state_shardings(tx, abstract))


def abstract_state(model_cfg: ModelConfig, tx: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """ShapeDtypeStructs with shardings: what a checkpoint is restored into."""
    shardings = state_shardings(model_cfg, tx, mesh)
    shapes = jax.eval_shape(lambda p: _fresh(p, tx), transformer.abstract_params(model_cfg, mesh))
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)


def _fresh(params: Any, tx: optax.GradientTransformation) -> TrainState:
    return TrainState(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32), params, tx.init(params))


def create(params: Any, model_cfg: ModelConfig, tx: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """A state at step 0 around given parameters (which it copies, so that donation cannot eat the caller's)."""
    return jax.jit(lambda p: _fresh(jax.tree.map(jnp.copy, p), tx), out_shardings=state_shardings(model_cfg, tx, mesh))(
        params
    )


def decode_copy(model_cfg: ModelConfig, mesh: Mesh) -> Callable[[Any], Any]:
    """The jitted program params (TRAIN layout) -> their copy for sampling: DECODE layout, in the compute dtype.

    Norms keep their stored dtype: they alone are used in it, everything else is cast where it is used. So sampler and
    trainer compute with the same numbers, and float32 master weights leave as bfloat16.
    """
    dtypes = jax.tree.map(
        lambda axes: jnp.dtype(model_cfg.param_dtype if "norm" in axes else model_cfg.dtype),
        transformer.logical_axes(model_cfg),
        is_leaf=lambda x: isinstance(x, tuple),
    )
    return sharding.resharder(transformer.param_shardings(model_cfg, mesh, sharding.DECODE), dtypes)


def accumulate(loss_fn: LossFn, params: Any, micro_batches: Any) -> tuple[Any, jax.Array, jax.Array, Sums]:
    """Gradient of the loss sum over micro-batches (leading axis of every leaf): (grads, loss sum, count, sums).

    Nothing is divided here, so any split into micro-batches gives the same result (design decision 5).
    """

    def one(batch):
        def loss(p):
            total, count, sums = loss_fn(p, batch)
            return total, (count, sums)

        (total, (count, sums)), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return grads, total, count, sums

    splits = jax.tree.leaves(micro_batches)[0].shape[0]
    if splits == 1:
        return one(jax.tree.map(lambda x: x[0], micro_batches))
    zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(one, jax.tree.map(lambda x: x[0], micro_batches))
    )
    carry, _ = jax.lax.scan(lambda acc, b: (jax.tree.map(jnp.add, acc, one(b)), None), zeros, micro_batches)
    return carry


def apply_gradients(
    state: TrainState, tx: optax.GradientTransformation, grads: Any, count: jax.Array
) -> tuple[TrainState, jax.Array, jax.Array]:
    """One optimizer step on grads / count; refused, and counted, when the gradient is not finite.

    Returns the new state, the gradient's global norm before clipping, and a bool [] that tells if the step was taken.
    """
    grads = jax.tree.map(lambda g: g / jnp.maximum(count, 1).astype(g.dtype), grads)
    norm = optax.global_norm(grads)
    good = jnp.isfinite(norm) & (count > 0)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    taken = TrainState(state.step + 1, state.skipped, optax.apply_updates(state.params, updates), opt_state)
    refused = dataclasses.replace(state, step=state.step + 1, skipped=state.skipped + 1)
    return jax.tree.map(lambda a, b: jnp.where(good, a, b), taken, refused), norm, good
