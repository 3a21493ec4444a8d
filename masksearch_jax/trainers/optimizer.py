"""The optimizer as one optax transformation over the params tree: AdamW or Muon, a schedule, a global-norm clip.

Enters: a config section and the abstract params (shapes and shardings). Leaves: an `optax.GradientTransformation`, and
the layout of its state. Gradients and state are float32 even where the weights are stored in bfloat16.
Left out: gradient accumulation and the guard against non-finite gradients (the trainers).
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers

from masksearch_jax.runtime import mesh as mesh_lib
from masksearch_jax.runtime.types import ConfigSection, Json, Pytree, Setting

KINDS = ("adamw", "muon")
SCHEDULES = ("constant", "cosine")
MU_DTYPES = ("float32", "bfloat16")

# The stacked matrices of model/transformer.py: the axes that a matrix product sums over, and those that it outputs.
# Axis 0 is the layer and stays a batch axis, so each layer's matrix is orthogonalised by itself. Heads and head_dim
# count as one axis.
_WEIGHTS = {
    "q": MuonDimensionNumbers(1, (2, 3)),  # [L, D, N, H]
    "k": MuonDimensionNumbers(1, (2, 3)),  # [L, D, K, H]
    "v": MuonDimensionNumbers(1, (2, 3)),
    "o": MuonDimensionNumbers((1, 2), 3),  # [L, N, H, D]
    "gate": MuonDimensionNumbers(1, 2),  # [L, D, F]
    "up": MuonDimensionNumbers(1, 2),
    "down": MuonDimensionNumbers(1, 2),  # [L, F, D]
}
# In an adapter (model/lora.py), A [L, inputs, R] has its weight's input axes and B [L, R, outputs] its output axes.
MATRICES = _WEIGHTS | {
    f"{name}_{factor}": numbers
    for name, weight in _WEIGHTS.items()
    for factor, numbers in {
        "a": MuonDimensionNumbers(weight.reduction_axis, 1 + len(jax.tree.leaves(weight.reduction_axis))),
        "b": MuonDimensionNumbers(1, tuple(range(2, 2 + len(jax.tree.leaves(weight.output_axis))))),
    }.items()
}
# Tables with one row per token. AdamW decays them. Muon leaves them to Adam, as they are no linear maps of activations.
_TABLES = ("embedding", "unembedding")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """The settings of the optimizer.

    kind: 'adamw', or 'muon' (Muon for the matrices of the blocks, Adam for the rest).
    learning_rate: peak. adam_learning_rate: peak for the parameters that Muon leaves to Adam; read by 'muon' only.
    warmup: steps of linear warm-up. schedule: 'constant' or 'cosine' after the warm-up. total_steps: the step at which
    the cosine ends (read by 'cosine' only). floor: the share of the peak at which the cosine ends.
    clip: largest global norm of a gradient; 0 turns clipping off.
    b1, b2, eps: those of Adam. mu_dtype: dtype in which the first moment is stored: 'float32', or 'bfloat16', which
    saves two bytes per parameter. The second moment and all arithmetic stay float32.
    weight_decay: decoupled, times the learning rate. It applies to matrices and, with adamw, to token tables; never to
    norms, biases and scalars.
    """

    kind: str = "adamw"
    learning_rate: float = 3e-4
    adam_learning_rate: float = 3e-3
    warmup: int = 0
    schedule: str = "constant"
    total_steps: int = 0
    floor: float = 0.1
    clip: float = 1.0
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    mu_dtype: str = "float32"
    weight_decay: float = 0.0

    def __post_init__(self):
        for name, allowed in (("kind", KINDS), ("schedule", SCHEDULES), ("mu_dtype", MU_DTYPES)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"optimizer.{name} = {getattr(self, name)!r}: choose one of {', '.join(allowed)}.")
        for name in ("learning_rate", "adam_learning_rate", "warmup", "floor", "clip", "weight_decay"):
            if getattr(self, name) < 0:
                raise ValueError(f"optimizer.{name} = {getattr(self, name)}: must not be negative.")
        if self.schedule == "cosine" and self.total_steps <= self.warmup:
            raise ValueError(
                f"optimizer.total_steps = {self.total_steps}: a cosine schedule needs more steps than its warmup of"
                f" {self.warmup}; raise total_steps or lower warmup."
            )


def from_config(section: ConfigSection | Mapping[str, Json], **override: Setting) -> OptimizerConfig:
    """Return the `OptimizerConfig` of a config section (ml_collections ConfigDict or dict).

    override: fields that replace those of the section. Raises ValueError for a name that is no field.
    """
    values = {**dict(section.items()), **override}
    known = [field.name for field in dataclasses.fields(OptimizerConfig)]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ValueError(f"optimizer: unknown setting {', '.join(unknown)}; the settings are {', '.join(known)}.")
    return OptimizerConfig(**values)


def schedule(cfg: OptimizerConfig) -> optax.Schedule:
    """Return the function step -> share of the peak learning rate, in [0, 1]. Step 0 is the first update."""
    after = optax.constant_schedule(1.0)
    if cfg.schedule == "cosine":
        after = optax.cosine_decay_schedule(1.0, cfg.total_steps - cfg.warmup, alpha=cfg.floor)
    if not cfg.warmup:
        return after
    # The first update already takes its share: a warm-up from 0 would make it none at all.
    rise = optax.linear_schedule(1 / cfg.warmup, 1.0, cfg.warmup - 1)
    return optax.join_schedules([rise, after], [cfg.warmup])


def build_optimizer(
    cfg: OptimizerConfig | ConfigSection | Mapping[str, Json], abstract_params: Pytree
) -> optax.GradientTransformation:
    """Return the optimizer. `optax.apply_updates` adds its updates to the params.

    cfg: an OptimizerConfig, or the config section for one. abstract_params: tree of arrays or ShapeDtypeStructs as
    `model.transformer` makes it. Raises ValueError for a bad setting or, for 'muon', a matrix of unexpected rank.
    """
    if not isinstance(cfg, OptimizerConfig):
        cfg = from_config(cfg)
    share = schedule(cfg)
    if cfg.kind == "adamw":
        names = _leaf_names(abstract_params)
        decayed = jax.tree.map(lambda name: name in MATRICES or name in _TABLES, names)
        optimizer = optax.adamw(
            lambda step: cfg.learning_rate * share(step),
            b1=cfg.b1,
            b2=cfg.b2,
            eps=cfg.eps,
            mu_dtype=jnp.dtype(cfg.mu_dtype),
            weight_decay=cfg.weight_decay,
            mask=decayed,
        )
    else:
        optimizer = optax.contrib.muon(
            lambda step: cfg.learning_rate * share(step),
            adam_learning_rate=lambda step: cfg.adam_learning_rate * share(step),
            adam_b1=cfg.b1,
            adam_b2=cfg.b2,
            eps=cfg.eps,
            mu_dtype=jnp.dtype(cfg.mu_dtype),
            weight_decay=cfg.weight_decay,
            muon_weight_dimension_numbers=_dimension_numbers(abstract_params),
        )
    if cfg.clip:
        optimizer = optax.chain(optax.clip_by_global_norm(cfg.clip), optimizer)
    return _in_float32(optimizer)


def scaled(optimizer: optax.GradientTransformation, scale: float) -> optax.GradientTransformation:
    """Return the optimizer at `scale` times its learning rates; its state is the same. All updates are linear in them.

    scale 1 returns the optimizer itself.
    """
    if scale == 1:
        return optimizer

    def update(gradients, state, params):
        updates, state = optimizer.update(gradients, state, params)
        return jax.tree.map(lambda x: x * scale, updates), state

    return optax.GradientTransformation(optimizer.init, update)


def abstract_opt_state(optimizer: optax.GradientTransformation, abstract_params: Pytree) -> Pytree:
    """Return the optimizer state as ShapeDtypeStructs with shardings, into which a checkpoint is restored.

    abstract_params: ShapeDtypeStructs with shardings (`transformer.abstract_params`). A leaf that mirrors a parameter
    has the sharding of that parameter. Everything else (step counters) is replicated.
    """
    leaves = jax.tree_util.tree_leaves_with_path(abstract_params)
    layouts = {path: (struct.shape, struct.sharding) for path, struct in leaves}
    whole = mesh_lib.replicated(leaves[0][1].sharding.mesh)

    def place(path, struct):
        for start in range(len(path)):
            shape, layout = layouts.get(path[start:], (None, None))
            if shape == struct.shape:
                return jax.ShapeDtypeStruct(struct.shape, struct.dtype, sharding=layout)
        return jax.ShapeDtypeStruct(struct.shape, struct.dtype, sharding=whole)

    return jax.tree_util.tree_map_with_path(place, jax.eval_shape(optimizer.init, abstract_params))


def opt_state_shardings(optimizer: optax.GradientTransformation, abstract_params: Pytree) -> Pytree:
    """Return NamedShardings of the optimizer state for the out_shardings of a jitted step (`abstract_opt_state`)."""
    return jax.tree.map(lambda struct: struct.sharding, abstract_opt_state(optimizer, abstract_params))


def _leaf_names(params):
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key, params)


def _dimension_numbers(params):
    """Return a tree with the MuonDimensionNumbers of every parameter, None for those that Adam updates."""

    def one(path, struct):
        numbers = MATRICES.get(path[-1].key)
        if numbers is not None:
            named = jax.tree.leaves(tuple(numbers))
            if len(named) + 1 != len(struct.shape):
                name = ".".join(key.key for key in path)
                raise ValueError(f"array {name}: Muon expects {len(named) + 1} axes, layers first; got {struct.shape}.")
        return numbers

    return jax.tree_util.tree_map_with_path(one, params)


def _in_float32(optimizer):
    """Return the optimizer with gradients and params cast to float32, so that its state and arithmetic are float32."""

    def wide(tree):
        return jax.tree.map(lambda x: x.astype(jnp.float32), tree)

    def update(gradients, state, params):
        return optimizer.update(wide(gradients), state, wide(params))

    return optax.GradientTransformation(lambda params: optimizer.init(wide(params)), update)
