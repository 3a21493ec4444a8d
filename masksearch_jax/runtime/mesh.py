"""The device mesh, and the rule tables that map logical axes of arrays to mesh axes.

Enters: logical axis names, as the model declares them beside each parameter. Leaves: NamedShardings. To change a layout
one changes a table: TRAIN shards weights over fsdp and tensor, DECODE over tensor only, so that a decode step gathers
nothing. Left out: which arrays exist and what their axes are (model/).
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from masksearch_jax.runtime.types import Params, Pytree

# data: copies of the weights, each with its part of the batch. fsdp: shards of both weights and batch. sequence: the
# tokens of a long row. tensor: the heads, the MLP width and the vocabulary.
AXES = ("data", "fsdp", "sequence", "tensor")
Rules = Mapping[str, str | tuple[str, ...] | None]

TRAIN: Rules = {
    "batch": ("data", "fsdp"),
    "time": None,
    "layers": None,
    "vocab": "tensor",
    "embed": "fsdp",
    "norm": None,  # the vectors of a norm are too small to be worth a gather
    "heads": "tensor",
    "kv_heads": "tensor",
    "head_dim": None,
    "ff": "tensor",
}
# Weights are whole on every fsdp shard: a decode step is bound by reading them, and would have to wait for a gather.
DECODE: Rules = {**TRAIN, "embed": None}
# Activations: as TRAIN, but the residual stream is whole in every shard of the batch, and a long row is sharded over
# time: each shard computes its own tokens' queries against all keys, which XLA gathers. Decoding leaves the sequence
# axis idle.
ACTIVATIONS: Rules = {**TRAIN, "embed": None, "time": "sequence"}

# Axes that every shard keeps whole when their size is smaller than the number of shards. Any other
# axis that its shards do not divide is an error, because replicating it silently would cost memory nobody asked for.
REPLICATED_WHEN_FEWER = ("kv_heads",)


def make_mesh(
    data: int = 1,
    fsdp: int = -1,
    tensor: int = 1,
    devices: Sequence[jax.Device] | None = None,
    *,
    sequence: int = 1,
    dcn_data: int = 1,
) -> Mesh:
    """Return a mesh with axes (data, fsdp, sequence, tensor); one size may be -1 and takes the rest of the devices.

    dcn_data: the number of slices that the data axis spans, a factor of `data`. Between slices there is only the data
    centre network, so weights are never gathered across it and only gradients cross. Devices without a slice index
    (CPU) are divided into equal parts in their order.
    A single process may ask for fewer devices than there are and gets the first ones; several processes must use all.
    Raises ValueError when the sizes do not fit the devices or the slices, or when the tensor axis would cross hosts.
    """
    sizes = dict(zip(AXES, (data, fsdp, sequence, tensor), strict=True))
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
    hosts = len({device.process_index for device in devices})
    if needed > len(devices) or (hosts > 1 and needed != len(devices)):
        raise ValueError(
            f"mesh {sizes} needs {needed} devices and there are {len(devices)} on {hosts} process(es);"
            " set one size to -1 to take what there is."
        )
    if hosts > 1 and len(devices) // hosts % sizes["tensor"]:
        raise ValueError(
            f"mesh {sizes}: tensor = {sizes['tensor']} does not divide the {len(devices) // hosts} devices of a"
            " host; the tensor axis stays within one host, so that every decode slot has one owner."
        )
    if dcn_data < 1 or sizes["data"] % dcn_data:
        raise ValueError(f"mesh {sizes}: dcn_data = {dcn_data} does not divide data, which spans the slices.")
    shape = (sizes["data"] // dcn_data, *(sizes[name] for name in AXES[1:]))
    parts = [_place(part, shape) for part in _slices(devices[:needed], dcn_data)]
    return Mesh(np.concatenate(parts, axis=AXES.index("data")), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _slices(devices: list[jax.Device], count: int) -> list[list[jax.Device]]:
    """Return the devices of each of `count` slices. Raises ValueError if they lie in another number of slices."""
    named: dict[int, list[jax.Device]] = {}
    for device in devices:
        named.setdefault(getattr(device, "slice_index", None) or 0, []).append(device)
    if len(named) == 1 and devices[0].platform == "cpu":
        return [devices[i * len(devices) // count : (i + 1) * len(devices) // count] for i in range(count)]
    if len(named) != count or len({len(part) for part in named.values()}) > 1:
        raise ValueError(
            f"mesh: dcn_data = {count} and the devices lie in slices of {[len(part) for part in named.values()]}; set"
            f" mesh.dcn_data={len(named)}, so that only the data axis crosses slices."
        )
    return [named[index] for index in sorted(named)]


def _place(devices: list[jax.Device], shape: tuple[int, ...]) -> np.ndarray:
    """Return the devices of one slice in the shape of a mesh whose last axis stays within a host.

    JAX's own placement follows the torus, and is used if it keeps the last axis within hosts. It does not always: it
    lays a tensor axis of 4 on v5e:4x4 across two hosts, and finds no placement for one of 2 on v5p:4x4x4. Then the
    devices are placed host after host.
    """
    try:
        placed = mesh_utils.create_device_mesh(shape, devices)
    except NotImplementedError:
        placed = None
    if placed is not None:
        groups = placed.reshape(-1, shape[-1])
        if all(len({device.process_index for device in group}) == 1 for group in groups):
            return placed
    return np.array(sorted(devices, key=lambda device: (device.process_index, device.id))).reshape(shape)


def partition_spec(
    name: str, axes: Sequence[str | None], shape: Sequence[int], mesh: Mesh | jax.sharding.AbstractMesh, rules: Rules
) -> PartitionSpec:
    """Translate the logical axes of the array `name` into a PartitionSpec over `mesh`.

    axes: one logical name per dimension of `shape`, or None for a dimension that stays whole.
    Raises ValueError, naming array and axis, for an unknown axis, a wrong rank, two dimensions on one mesh axis, or a
    dimension that its shards do not divide.
    """
    if len(axes) != len(shape):
        raise ValueError(f"array {name}: {len(axes)} logical axes {tuple(axes)} for shape {tuple(shape)}.")
    entries: list[str | tuple[str, ...] | None] = []
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
            taken[part] = str(axis)
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
    mesh: Mesh | jax.sharding.AbstractMesh,
    axes: Sequence[str | None],
    shape: Sequence[int],
    rules: Rules,
    name: str = "array",
) -> NamedSharding:
    """Return `partition_spec` as a NamedSharding; it raises the same errors."""
    return NamedSharding(mesh, partition_spec(name, axes, shape, mesh, rules))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Return the layout of a batch: the first dimension over (data, fsdp), the others whole."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the layout of a scalar, or of any array that every device keeps whole."""
    return NamedSharding(mesh, PartitionSpec())


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Pin an activation to its layout under the mesh of `jax.set_mesh`; without one, or on one device, return x.

    A dimension that its shards do not divide stays whole: a prompt batch may be narrower than the mesh.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, activation_spec(axes, x.shape))


def activation_spec(axes: Sequence[str | None], shape: Sequence[int]) -> PartitionSpec:
    """Return an activation's PartitionSpec under the mesh of `jax.set_mesh`.

    A dimension that its shards do not divide stays whole.
    """
    mesh = jax.sharding.get_abstract_mesh()
    fitting = []
    for axis, size in zip(axes, shape, strict=True):
        target = ACTIVATIONS[axis] if axis is not None else None
        parts = (target,) if isinstance(target, str) else tuple(target or ())
        fitting.append(axis if size % math.prod(mesh.shape[part] for part in parts) == 0 else None)
    return partition_spec("activation", fitting, shape, mesh, ACTIVATIONS)


def batch_shards() -> int:
    """Return how many shards a batch has under the mesh of `jax.set_mesh`; 1 without one."""
    shape = jax.sharding.get_abstract_mesh().shape
    return math.prod(shape.get(axis, 1) for axis in ACTIVATIONS["batch"] or ())


def reshard(params: Params, shardings: Pytree, dtype: Pytree = None) -> Params:
    """Move a tree of arrays into another layout inside one jitted program; see `resharder`."""
    return resharder(shardings, dtype)(params)


def resharder(shardings: Pytree, dtype: Pytree = None) -> Callable[[Pytree], Pytree]:
    """Return the jitted program that moves a tree of arrays into another layout (TRAIN to DECODE), cached by layout.

    shardings: tree of NamedSharding. dtype: floating-point arrays are cast to it before they are moved; a dtype, or a
    tree of dtypes like `shardings`; None keeps them. A leaf that changes neither layout nor dtype may share its buffer
    with the input: do not donate one of the two and read the other afterwards.
    """
    leaves, treedef = jax.tree_util.tree_flatten(shardings)
    # PyTreeDef is a type without methods in the stubs of jaxlib.
    dtypes = treedef.flatten_up_to(dtype) if isinstance(dtype, dict) else [dtype] * len(leaves)  # type: ignore[attr-defined]
    return _resharder(treedef, tuple(leaves), tuple(dtypes))


@functools.lru_cache(maxsize=16)
def _resharder(treedef, leaves, dtypes):
    def cast(x, dtype):
        return x.astype(dtype) if dtype is not None and jax.numpy.issubdtype(x.dtype, jax.numpy.floating) else x

    def move(tree):
        return treedef.unflatten(map(cast, treedef.flatten_up_to(tree), dtypes))

    return jax.jit(move, out_shardings=treedef.unflatten(leaves))
