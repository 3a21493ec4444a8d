"""TPU slices by the name that people use: 'v5e-16' -> chips, hosts, topology, and what Cloud TPU and GKE call it.

In: a name. Out: an `Accelerator`, or ValueError that lists the sizes. v5e and v6e are named by chips, v4 and v5p by
cores, two to a chip: v5p-128 has 64 chips. Slices of v5e and v6e up to 8 chips are one host, larger ones have hosts of
4 chips. Left out: several slices in one job, and topologies other than the usual one of a size.
Source: the pages of each TPU version and "Plan TPUs in GKE" of the Google Cloud documentation.
"""

import dataclasses

_FLAT = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
_CUBES = {
    4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8", 256: "4x8x8", 512: "8x8x8",
    1024: "8x8x16", 2048: "8x16x16",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Generation:
    """What the slices of one TPU version have in common."""

    api_prefix: str
    runtime_version: str
    gke_accelerator: str
    machine_prefix: str
    topologies: dict[int, str]  # chips -> topology
    cores_per_chip: int  # as the names count


GENERATIONS = {
    "v4": Generation("v4", "tpu-ubuntu2204-base", "tpu-v4-podslice", "ct4p-hightpu", _CUBES, 2),
    "v5e": Generation("v5litepod", "v2-alpha-tpuv5-lite", "tpu-v5-lite-podslice", "ct5lp-hightpu", _FLAT, 1),
    "v5p": Generation("v5p", "v2-alpha-tpuv5", "tpu-v5p-slice", "ct5p-hightpu", _CUBES, 2),
    "v6e": Generation("v6e", "v2-alpha-tpuv6e", "tpu-v6e-slice", "ct6e-standard", _FLAT, 1),
}


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """One slice. accelerator_type and runtime_version: of the Cloud TPU API; gke_accelerator, machine_type: of GKE."""

    name: str
    chips: int
    hosts: int
    topology: str
    accelerator_type: str
    runtime_version: str
    gke_accelerator: str
    machine_type: str

    @property
    def chips_per_host(self) -> int:
        return self.chips // self.hosts


def accelerator(name: str) -> Accelerator:
    """The slice of that name ('v5litepod-16' is v5e-16 too); raises ValueError for one that does not exist."""
    version, _, size = name.replace("v5litepod", "v5e").partition("-")
    if version not in GENERATIONS:
        raise ValueError(f"accelerator {name!r}: the version is none of {', '.join(GENERATIONS)}, as in v5e-16")
    generation = GENERATIONS[version]
    chips, rest = divmod(int(size), generation.cores_per_chip) if size.isdecimal() else (0, 0)
    if rest or chips not in generation.topologies:
        sizes = ", ".join(f"{version}-{known * generation.cores_per_chip}" for known in generation.topologies)
        counts = "chips" if generation.cores_per_chip == 1 else "cores, two to a chip"
        raise ValueError(f"accelerator {name!r}: {version} is named by {counts}: {sizes}")
    per_host = chips if chips <= (8 if generation.topologies is _FLAT else 4) else 4
    return Accelerator(
        name=f"{version}-{size}",
        chips=chips,
        hosts=chips // per_host,
        topology=generation.topologies[chips],
        accelerator_type=f"{generation.api_prefix}-{size}",
        runtime_version=generation.runtime_version,
        gke_accelerator=generation.gke_accelerator,
        machine_type=f"{generation.machine_prefix}-{per_host}t",
    )
