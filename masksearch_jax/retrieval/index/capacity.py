"""Estimate the memory and disk that an index takes, and refuse to build one that the machine has no room for.

Enters: number of vectors, their width, the plan of a ScaNN index. Leaves: `Need`. Only the index is counted: the
encoder, the passages and the words of a hybrid index come on top (docs/guides/search.md). Vectors are mapped from disk,
so what holds them is cache, which the system may drop. Left out: memory limits of a container below those of its
machine.
"""

import dataclasses
import shutil
from pathlib import Path

from masksearch_jax.retrieval.index import scann_index

_PROCESS = 200 << 20  # Python, NumPy, ScaNN and the blocks of exact search
# Peak of a build divided by the float32 bytes of one shard, the mapped file included: 3.54 at 1M x 384.
_BUILD_COPIES = 3.6
_BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}


@dataclasses.dataclass(frozen=True)
class Need:
    """What an index takes, in bytes. vectors: the float32 file, which is mapped."""

    count: int
    dims: int
    vectors: int
    build: int
    serve: int
    disk: int

    def __str__(self) -> str:
        return (
            f"{self.count} passages x {self.dims} dimensions: vectors {_mb(self.vectors)}, memory about "
            f"{_mb(self.build)} to build and {_mb(self.serve)} to serve, disk {_mb(self.disk)}"
        )

    def check(self, directory: Path) -> None:
        """Raise ValueError if this machine has less memory available, or `directory` less disk free."""
        there = next(parent for parent in directory.absolute().parents if parent.exists())
        for what, need, has, remedy in (
            ("memory", self.build, _memory_available(), "lower retrieval.scann.shard_size or free memory"),
            ("disk", self.disk, shutil.disk_usage(there).free, f"free some under {there}, or choose another folder"),
        ):
            if has is not None and need > has:
                raise ValueError(
                    f"{directory}: the index of {self.count} passages x {self.dims} dimensions needs about "
                    f"{_mb(need)} of {what} to build, {_mb(has)} are available: {remedy}, or lower retrieval.dims"
                )


def need(count: int, dims: int, how: scann_index.Plan | None) -> Need:
    """Return what an index of `count` vectors of width `dims` takes. how: None for exact search over all vectors."""
    vectors = 4 * count * dims
    if how is None:
        return Need(count, dims, vectors, build=_PROCESS, serve=_PROCESS, disk=2 * vectors)
    shard = 4 * -(-count // how.shards) * dims
    if how.method == "brute_force":
        held = saved = vectors
    else:
        # Each leaf that holds a vector stores its row and its codes: four bits a block in memory, a byte on disk.
        leaves = 2 if how.method == "tree" and how.soar else 1
        blocks, reordered = -(-dims // how.dims_per_block), _BYTES[how.reordering] * dims
        held = count * (leaves * (blocks // 2 + 4) + reordered)
        saved = count * (leaves * (blocks + 4) + reordered)
    return Need(
        count,
        dims,
        vectors,
        build=_PROCESS + max(int(_BUILD_COPIES * shard), held),
        serve=_PROCESS + held,
        disk=2 * vectors + saved,  # the vectors as they were encoded, and those of the index
    )


def _memory_available() -> int | None:
    """Return MemAvailable of /proc/meminfo in bytes, None where there is no such file."""
    path = Path("/proc/meminfo")
    if not path.exists():
        return None
    for line in path.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    return None


def _mb(count: int) -> str:
    return f"{count / 2**20:,.0f} MB"
