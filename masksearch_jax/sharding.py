"""The device mesh and the tables that say which logical axis of an array lies on which mesh axis.

Enters: logical axis names, as the model declares them beside each parameter. Leaves: NamedShardings. Changing a
layout is changing a table: TRAIN shards weights over fsdp and tensor, DECODE over tensor only, so that a decode step
gathers nothing. Left out: which arrays exist and what their axes are (model/).
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "tensor")
Rules = Mapping[str, str | tuple[str, ...] | None]

TRAIN: Rules = {
    "batch": ("data", "fsdp"),
    "time": None,
    "layers": None,
    "vocab": "tensor",
    "embed": "fsdp",
    "norm": None,  # vectors of a norm: too small to be worth a gather
    "heads": "tensor",
    "kv_heads": "tensor",
    "head_dim": None,
    "ff": "tensor",
}
# Weights whole on every fsdp shard: a decode step is bound by reading them, and would wait for a gather.
DECODE: Rules = {**TRAIN, "embed": None}
# Activations: as TRAIN, but the residual stream is whole in every shard of the batch.
ACTIVATIONS: Rules = {**TRAIN, "embed": None}

# Fewer heads than shards: every shard keeps all of them (design decision 4). Any other axis that does not divide is
# an error, because replicating it in silence would cost memory nobody asked for.
REPLICATED_WHEN_FEWER = ("kv_heads",)


def make_mesh(data: int = 1, fsdp: int = -1, tensor: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with axes (data, fsdp, tensor); one size may be -1 and takes the rest of the devices.

    One process may ask for fewer devices than there are and gets the first ones; several processes must use all.
    Raises ValueError when the sizes do not fit the devices, or when the tensor axis would cross a host.
    """
    sizes = dict(zip(AXES, (data, fsdp, tensor), strict=True))
    free = [name for name, size in sizes.items() if size == -1]
    if len(free) > 1 or any(size < 1 and size != -1 for size in sizes.values()):
        raise ValueError(f"mesh {sizes}: sizes are at least 1, and at most one of them may be -1 (the rest).")
    devices = list(jax.devices() if devices is None else devices)
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if free:
        if len(devices) % fixed:
            raise ValueError(f"mesh {sizes}: {len(devices)} devices do not divide by {fixed}; change the fixed sizes.")
        sizes[free[0]] = len(devices) // fixed
    needed = math.prod(sizes.values())
    if needed > len(devices) or (jax.process_count() > 1 and needed != len(devices)):
        raise ValueError(
            f"mesh {sizes} needs {needed} devices and there are {len(devices)} on {jax.process_count()} process(es);"
            " set one size to -1 to take what there is."
        )
    if jax.process_count() > 1 and jax.local_device_count() % sizes["tensor"]:
        raise ValueError(
            f"mesh {sizes}: tensor = {sizes['tensor']} does not divide the {jax.local_device_count()} devices of a"
            " host; the tensor axis stays within one host, so that every decode slot has one owner."
        )
    shape = tuple(sizes[name] for name in AXES)
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices[:needed])


def partition_spec(
    name: str, axes: Sequence[str | None], shape: Sequence[int], mesh: Mesh, rules: Rules
) -> PartitionSpec:
    """Translates the logical axes of the array `name` into a PartitionSpec over `mesh`.

    axes: one logical name (or None: whole) per dimension of `shape`.
    Raises ValueError, naming array and axis, for an unknown axis, a wrong rank, two dimensions on one mesh axis, or a
    dimension that its shards do not divide.
    """
    if len(axes) != len(shape):
        raise ValueError(f"array {name}: {len(axes)} logical axes {tuple(axes)} for shape {tuple(shape)}.")
    entries: list[Any] = []
    taken: dict[str, str] = {}
    for axis, size in zip(axes, shape, strict=True):
        if axis is not None and axis not in rules:
            raise ValueError(f"array {name}: logical axis {axis!r} has no rule; the rules know {', '.join(rules)}.")
        target = rules[axis] if axis is not None else None
        parts = (target,) if isinstance(target, str) else tuple(target or ())
        parts = tuple(part for part in parts if mesh.shape[part] > 1)
        shards = math.prod(mesh.shape[part] for part in parts)
        if axis in REPLICATED_WHEN_FEWER and size < shards and shards % size == 0:
            parts, shards = (), 1
        for part in parts:
            if part in taken:
                raise ValueError(
                    f"array {name}: axes {taken[part]!r} and {axis!r} both land on mesh axis {part!r}; change the rules"
                    " so that each dimension has its own."
                )
            taken[part] = axis
        if size % shards:
            raise ValueError(
                f"array {name}: axis {axis!r} has size {size}, which {shards} shards on mesh axes {parts} do not"
                " divide; change the size or the mesh."
            )
        entries.append(parts[0] if len(parts) == 1 else parts or None)
    while entries and entries[-1] is None:
        entries.pop()  # one spelling per layout: P(None,) and P() compare unequal and would compile twice
    return PartitionSpec(*entries)


def named_sharding(
    mesh: Mesh, axes: Sequence[str | None], shape: Sequence[int], rules: Rules, name: str = "array"
) -> NamedSharding:
    """`partition_spec` as a NamedSharding; same errors."""
    return NamedSharding(mesh, partition_spec(name, axes, shape, mesh, rules))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Layout of a batch: first dimension over (data, fsdp), the others whole."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    """Layout of a scalar or of anything that every device keeps whole."""
    return NamedSharding(mesh, PartitionSpec())


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Pins an activation to its layout under the mesh of `jax.set_mesh`; without one, or on one device, returns x.

    A dimension that its shards do not divide is left whole: a prompt batch may be narrower than the mesh.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    fitting = []
    for axis, size in zip(axes, x.shape, strict=True):
        target = ACTIVATIONS[axis] if axis is not None else None
        parts = (target,) if isinstance(target, str) else tuple(target or ())
        fitting.append(axis if size % math.prod(mesh.shape[part] for part in parts) == 0 else None)
    return jax.lax.with_sharding_constraint(x, partition_spec("activation", fitting, x.shape, mesh, ACTIVATIONS))


def reshard(params: Any, shardings: Any, dtype: Any = None) -> Any:
    """Moves a tree of arrays into another layout inside one jitted program (TRAIN to DECODE), compiled once a layout.

    shardings: tree of NamedSharding like `params`. dtype: what floating arrays are cast to; None keeps them.
    A leaf that changes neither layout nor dtype may share its buffer with the input: do not donate one of the two
    and read the other afterwards.
    """
    leaves, treedef = jax.tree.flatten(shardings)
    return _resharder(treedef, tuple(leaves), dtype)(params)


@functools.lru_cache(maxsize=16)
def _resharder(treedef, leaves, dtype):
    def cast(x):
        return x.astype(dtype) if dtype is not None and jax.numpy.issubdtype(x.dtype, jax.numpy.floating) else x

    return jax.jit(lambda tree: jax.tree.map(cast, tree), out_shardings=jax.tree.unflatten(treedef, leaves))
