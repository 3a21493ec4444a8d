"""The state that a training stage carries from step to step, and the update that SFT and DAPO share."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from masksearch_jax.model import lora, transformer
from masksearch_jax.model.config import ModelConfig
from masksearch_jax.runtime import mesh as mesh_lib
from masksearch_jax.trainers import optimizer as optimizer_lib

Sums = dict[str, tuple[jax.Array, jax.Array]]
# (params, batch) -> (loss sum, token count, further (sum, count) pairs)
LossFn = Callable[[Any, Any], tuple[jax.Array, jax.Array, Sums]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """The state of training.

    step: int32 [], optimizer steps tried. skipped: int32 [], those of them that were refused (`apply_gradients`).
    params and opt_state: pytrees, sharded by the TRAIN rules. params holds what is trained: all parameters, or only the
    adapters. The frozen base of adapters is kept outside the state, and is neither donated nor saved.
    """

    step: jax.Array
    skipped: jax.Array
    params: Any
    opt_state: Any


def state_shardings(model_cfg: ModelConfig, tx: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """Return a NamedSharding for every leaf of a TrainState."""
    trained = abstract_trained(model_cfg, mesh)
    whole = mesh_lib.replicated(mesh)
    params = jax.tree.map(lambda struct: struct.sharding, trained)
    return TrainState(whole, whole, params, optimizer_lib.opt_state_shardings(tx, trained))


def abstract_trained(model_cfg: ModelConfig, mesh: Mesh) -> Any:
    """Return ShapeDtypeStructs with shardings of the trained parameters, for which the optimizer is built."""
    return lora.split(transformer.abstract_params(model_cfg, mesh))[0]


def frozen_shardings(model_cfg: ModelConfig, mesh: Mesh) -> tuple:
    """Return the NamedShardings of the frozen base as the last arguments of a program: () or a tuple of one tree."""
    return lora.split(transformer.param_shardings(model_cfg, mesh))[1]


def abstract_state(model_cfg: ModelConfig, tx: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """Return the TrainState as ShapeDtypeStructs with shardings, into which a checkpoint is restored."""
    shardings = state_shardings(model_cfg, tx, mesh)
    shapes = jax.eval_shape(lambda p: _fresh(p, tx), abstract_trained(model_cfg, mesh))
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)


def _fresh(params: Any, tx: optax.GradientTransformation) -> TrainState:
    return TrainState(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32), params, tx.init(params))


def create(params: Any, model_cfg: ModelConfig, tx: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """Return a state at step 0 with a copy of the trained part of params, so donation cannot delete the caller's."""
    return jax.jit(lambda p: _fresh(jax.tree.map(jnp.copy, p), tx), out_shardings=state_shardings(model_cfg, tx, mesh))(
        lora.split(params)[0]
    )


def adapter_facts(model_cfg: ModelConfig, frozen: tuple, pretrained: str, seed: int) -> dict[str, Any]:
    """Return what a checkpoint of adapters records beside them: their settings, and the origin and hash of their base.

    The result is {} without adapters. frozen: as `lora.split` returns it. pretrained, seed: those of the config. If
    pretrained is empty, the base was initialised from the seed.
    """
    if not frozen:
        return {}
    base = {"pretrained": pretrained, "seed": seed, "hash": lora.fingerprint(frozen[0])}
    settings = dataclasses.asdict(model_cfg.lora)
    return {"adapters": settings | {"targets": list(settings["targets"])}, "base": base}


def check_adapters(meta: Mapping[str, Any], facts: Mapping[str, Any], folder: Path) -> None:
    """Raise ValueError if the checkpoint in `folder` has other adapters or another base than this run.

    meta: the checkpoint's facts. facts: this run's `adapter_facts`.
    """
    saved, now = meta.get("adapters"), facts.get("adapters")
    if saved != now:
        described = [" ".join(f"lora.{k}={v}" for k, v in x.items()) if x else "no adapters" for x in (saved, now)]
        raise ValueError(
            f"{folder} was trained with {described[0]}, and this run has {described[1]}: give the same --config.lora.*"
            " settings, or another --workdir"
        )
    if saved and meta["base"]["hash"] != facts["base"]["hash"]:
        there, here = (
            f"{x['pretrained'] or 'fresh weights of seed ' + str(x['seed'])} (hash {x['hash']})"
            for x in (meta["base"], facts["base"])
        )
        raise ValueError(
            f"{folder}: its adapters stand on {there}, and the base here is {here}; give the same --config.pretrained,"
            " seed and model.param_dtype"
        )


@functools.lru_cache(maxsize=8)
def decode_copy(model_cfg: ModelConfig, mesh: Mesh, outlives: bool = False) -> Callable[[Any], Any]:
    """Return the jitted program params (TRAIN layout) -> copy for sampling (DECODE layout, compute dtype).

    Adapters are added into the weights in float32, before the cast, so the copy has the config `model_cfg.merged`.
    Norms keep their stored dtype, because only they are used in it; all other weights are cast where they are used. So
    sampler and trainer compute with the same numbers, and float32 master weights are copied as bfloat16. With adapters
    the two are equal up to rounding, because the trainer multiplies by W, A and B in turn.
    outlives: True if the copy is used after its source was donated; it then shares no buffer with the source.
    """
    plain = model_cfg.merged
    dtypes = jax.tree.map(
        lambda axes: jnp.dtype(plain.param_dtype if "norm" in axes else plain.dtype),
        transformer.logical_axes(plain),
        is_leaf=lambda x: isinstance(x, tuple),
    )
    layouts = transformer.param_shardings(plain, mesh, mesh_lib.DECODE)
    move = mesh_lib.resharder(layouts, dtypes)
    if model_cfg.lora is None and not outlives:
        return move

    def program(params):
        params = move(lora.merged(model_cfg, params) if model_cfg.lora else params)
        return jax.tree.map(jnp.copy, params) if outlives else params

    return jax.jit(program, out_shardings=layouts)


def accumulate(
    loss_fn: LossFn, params: Any, micro_batches: Any, *frozen: Any
) -> tuple[Any, jax.Array, jax.Array, Sums]:
    """Return (grads, loss sum, count, sums), added over micro-batches; grads is the gradient of the loss sum.

    params: the trained parameters. micro_batches: their number is the leading axis of every leaf. frozen: the base, if
    params are adapters.
    Nothing is divided here, so any split into micro-batches gives the same result (design decision 5). The sums are
    float32 whatever the dtype of the parameters, because bfloat16 cannot count beyond 256 in steps of one. So the
    gradient of bfloat16 parameters takes four bytes per parameter.
    """

    def one(batch):
        def loss(p):
            total, count, sums = loss_fn(lora.join(p, *frozen), batch)
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


def apply_gradients(
    state: TrainState, tx: optax.GradientTransformation, grads: Any, count: jax.Array
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
