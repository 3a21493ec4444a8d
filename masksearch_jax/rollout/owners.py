"""Which process owns which slots, and what crosses between processes during a rollout (design decision 4).

The slots lie on the (data, fsdp) shards of the mesh, so each belongs to one host. Its owner alone reads its turns,
searches for it and records its tokens. What all hosts must know to run the same programs, or must feed to them, passes
through `Owners`: rows of numpy arrays in, the rows of every owner out. With one process that is the array itself.
Left out: what the rows mean (rollout/scheduler.py).
"""

import functools
from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import Mesh

from masksearch_jax import distributed, sharding


class Owners:
    """Slots 0 .. B-1 over the mesh. own: bool [B], the slots of this process. order: all slots, in the order in which
    empty ones are handed out: one of each shard in turn, so that every host gets its share of the searches. shards:
    into how many parts of equal size they lie. several: whether other processes own slots."""

    def __init__(self, mesh: Mesh, slots: int):
        """Raises ValueError if the shards do not divide the slots, or if a slot would have two owners."""
        self.shards = shards = mesh.shape["data"] * mesh.shape["fsdp"]
        if slots % shards:
            raise ValueError(
                f"rollout.slots={slots} does not divide over {shards} shards (mesh data x fsdp); take a multiple"
            )
        self._mesh, self._slots = mesh, slots
        self.several = mesh.is_multi_process
        self._rows, self._whole = sharding.batch_sharding(mesh), sharding.replicated(mesh)
        self.own = owned(self._rows, slots) == jax.process_index() if self.several else np.ones(slots, bool)
        self.order = np.arange(slots).reshape(shards, -1).T.ravel().tolist()

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """rows [B, ..], of which each process filled its own, as all filled them; waits for all."""
        if not self.several:
            return rows
        return np.asarray(_replicate(self._whole)(self.rows(rows)))

    def gather_lists(self, own: Mapping[int, np.ndarray], lengths: Mapping[int, int]) -> dict[int, np.ndarray]:
        """By slot, ascending: the int32 list of each slot in `lengths`, which all know. own: this process's lists."""
        if self.several:
            # Few widths: the exchange is a program, compiled once for each.
            rows = np.zeros((self._slots, 1 << (max(lengths.values()) - 1).bit_length()), np.int32)
            for slot, values in own.items():
                rows[slot, : len(values)] = values
            gathered = self.gather(rows)
            own = {slot: gathered[slot, :length] for slot, length in lengths.items()}
        return {slot: own[slot] for slot in sorted(lengths)}

    def rows(self, rows: np.ndarray):
        """rows [B, ..] as the input of a device program; only this process's own are read."""
        return rows if self._mesh.size == 1 else distributed.put(rows, self._rows)

    def whole(self, array: np.ndarray):
        """What all processes hold alike as the input of a device program, whole on every device."""
        return array if self._mesh.size == 1 else distributed.put(array, self._whole)


def owned(layout: jax.sharding.Sharding, slots: int) -> np.ndarray:
    """int [B]: the process that owns each slot. Raises ValueError if a slot lies on devices of two processes."""
    owner = np.full(slots, -1)
    for device, (rows, *_) in layout.devices_indices_map((slots,)).items():
        if ((owner[rows] >= 0) & (owner[rows] != device.process_index)).any():
            raise ValueError(
                f"slots {rows.start or 0} to {(rows.stop or slots) - 1} lie on devices of several processes: the "
                "tensor axis has to stay within a host; lower mesh.tensor"
            )
        owner[rows] = device.process_index
    return owner


@functools.lru_cache(maxsize=4)
def _replicate(whole):
    return jax.jit(lambda x: x, out_shardings=whole)
