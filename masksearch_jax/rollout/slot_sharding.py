"""Which process owns which slots, and how processes exchange data about slots in a rollout.

The slots are sharded over the (data, fsdp) axes of the mesh, so each slot belongs to one host. Only the owner of a slot
reads its turns, searches for it and records its tokens. All hosts have to run the same programs on the same inputs.
`SlotSharding` exchanges what they need for that: each host passes in its own rows of a numpy array and gets the rows of
all hosts. With one process the array is returned unchanged.
Left out: what the rows mean (rollout/scheduler.py).
"""

import functools
from collections.abc import Callable, Mapping

import jax
import numpy as np
from jax.sharding import Mesh

from masksearch_jax.runtime import distributed
from masksearch_jax.runtime import mesh as mesh_lib


class SlotSharding:
    """The layout of slots 0 .. B-1 over the mesh.

    own: bool [B], True for the slots of this process. order: all slots in the order in which empty ones are filled. It
    takes one slot of each shard in turn, so that every host gets its share of the searches. shards: the number of
    equal parts that the slots are divided into, per_shard slots each. several: True if other processes own slots too.
    """

    def __init__(self, mesh: Mesh, slots: int):
        """Lay `slots` slots out over `mesh`.

        Raises ValueError if they do not divide over the shards, or if a slot would have two owners.
        """
        self.shards = shards = mesh.shape["data"] * mesh.shape["fsdp"]
        if slots % shards:
            raise ValueError(
                f"rollout.slots={slots} does not divide over {shards} shards (mesh data x fsdp); take a multiple"
            )
        self.per_shard = slots // shards
        self._mesh, self._slots = mesh, slots
        self.several = mesh.is_multi_process
        self._rows, self._whole = mesh_lib.batch_sharding(mesh), mesh_lib.replicated(mesh)
        self.own = owned(self._rows, slots) == jax.process_index() if self.several else np.ones(slots, bool)
        self.order = np.arange(slots).reshape(shards, -1).T.ravel().tolist()

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Return rows [B, ..] as all processes filled them; each passes its own rows and waits for the others."""
        if not self.several:
            return rows
        return np.asarray(_replicate(self._whole)(self.rows(rows)))

    def gather_lists(self, own: Mapping[int, np.ndarray], lengths: Mapping[int, int]) -> dict[int, np.ndarray]:
        """Return {slot: int32 token ids} for every slot in `lengths`, in ascending order of slots.

        own: the lists of this process's slots; those of other processes are gathered. lengths: {slot: length of its
        list}, the same on all processes.
        """
        if self.several:
            # The width is rounded up to a power of two: the exchange is a program that is compiled once per width.
            rows = np.zeros((self._slots, 1 << (max(lengths.values()) - 1).bit_length()), np.int32)
            for slot, values in own.items():
                rows[slot, : len(values)] = values
            gathered = self.gather(rows)
            own = {slot: gathered[slot, :length] for slot, length in lengths.items()}
        return {slot: own[slot] for slot in sorted(lengths)}

    def rows(self, rows: np.ndarray) -> np.ndarray | jax.Array:
        """Return rows [B, ..] as the input of a device program; only this process's own rows are read."""
        return rows if self._mesh.size == 1 else distributed.put(rows, self._rows)

    def whole(self, array: np.ndarray | np.bool_) -> np.ndarray | np.bool_ | jax.Array:
        """Return an array that is equal on all processes as a device program's input, replicated on every device."""
        return array if self._mesh.size == 1 else distributed.put(array, self._whole)


def owned(layout: jax.sharding.Sharding, slots: int) -> np.ndarray:
    """Return int [B], the process that owns each slot.

    Raises ValueError if a slot lies on devices of two processes.
    """
    owner = np.full(slots, -1)
    placed: Mapping[jax.Device, tuple[slice, ...]] = layout.devices_indices_map((slots,))
    for device, (rows, *_) in placed.items():
        if ((owner[rows] >= 0) & (owner[rows] != device.process_index)).any():
            raise ValueError(
                f"slots {rows.start or 0} to {(rows.stop or slots) - 1} lie on devices of several processes: the "
                "tensor axis has to stay within a host; lower mesh.tensor"
            )
        owner[rows] = device.process_index
    return owner


@functools.lru_cache(maxsize=4)
def _replicate(whole: jax.sharding.Sharding) -> Callable[[np.ndarray | jax.Array], jax.Array]:
    return jax.jit(lambda x: x, out_shardings=whole)
