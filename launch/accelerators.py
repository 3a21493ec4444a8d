"""TPU slices by the name that people use: 'v5e-16' -> chips, hosts, topology, and what Cloud TPU and GKE call it.

In: a name. Out: an `Accelerator`, or ValueError that lists the sizes. Which slices there are stands in one table,
masksearch_jax/aot/topologies.py, which the recipes and the compiler read as well; this file knows only the words of
Cloud TPU and GKE. Left out: several slices in one job, and topologies other than the usual one of a size.
Source: the pages of each TPU version and "Plan TPUs in GKE" of the Google Cloud documentation.
"""

import dataclasses
import math
import sys
from pathlib import Path

# A launcher runs from a checkout where nothing is installed. The table needs the standard library only.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from masksearch_jax.aot import topologies  # noqa: E402


@dataclasses.dataclass(frozen=True)
class Naming:
    """What Cloud TPU and GKE call the slices of one TPU version."""

    api_prefix: str
    runtime_version: str
    gke_accelerator: str
    machine_prefix: str


NAMINGS = {
    "v4": Naming("v4", "tpu-ubuntu2204-base", "tpu-v4-podslice", "ct4p-hightpu"),
    "v5e": Naming("v5litepod", "v2-alpha-tpuv5-lite", "tpu-v5-lite-podslice", "ct5lp-hightpu"),
    "v5p": Naming("v5p", "v2-alpha-tpuv5", "tpu-v5p-slice", "ct5p-hightpu"),
    "v6e": Naming("v6e", "v2-alpha-tpuv6e", "tpu-v6e-slice", "ct6e-standard"),
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
    """Return the slice of a name (v5e-16, v5litepod-16 or v5e:4x4). Raises ValueError for one that does not exist."""
    found = topologies.parse(name)
    generation = found.generation
    usual = generation.sizes.get(found.chips)
    if found.dims != usual:
        instead = f"; a slice of {found.chips} chips is {'x'.join(map(str, usual))}" if usual else ""
        raise ValueError(
            f"accelerator {name!r}: the launchers order slices of the usual shape only{instead}. Known are "
            f"{topologies.known(generation)}"
        )
    naming = NAMINGS[generation.name]
    return Accelerator(
        name=found.marketing_name,
        chips=found.chips,
        hosts=found.hosts,
        topology="x".join(map(str, found.dims)),
        accelerator_type=f"{naming.api_prefix}-{found.chips * generation.cores_counted}",
        runtime_version=naming.runtime_version,
        gke_accelerator=naming.gke_accelerator,
        machine_type=f"{naming.machine_prefix}-{math.prod(found.host_bounds)}t",
    )
