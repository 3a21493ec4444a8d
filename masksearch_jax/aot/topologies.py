"""TPU slices by name: turn `v5p-128`, `v6e-8`, `v5litepod-16` or `v5p:4x4x4` into chips, hosts, memory and peak rates.

Enters: a name as the Cloud console, queued resources or GKE spell it. Leaves: a `Topology`, whose `name` libtpu
accepts. The number in a name is a trap: v4 and v5p names count TensorCores, two per chip (v5p-128 has 64 chips), while
v5e and v6e names count chips. Left out: what runs on a slice, and the compiler itself (programs.py). The launchers read
this table where nothing is installed, so it imports only the standard library and a file of ours that does the same.

Figures: https://cloud.google.com/tpu/docs/v4, /v5e, /v5p, /v6e (peak bf16 rate, HBM bandwidth, host shapes). HBM is
the amount that the compiler lets a program use, a little less than the chip has: for each generation the limit that
libtpu 0.0.42.1 itself names when a program is too large.
"""

import dataclasses
import math
import re

from masksearch_jax.runtime import device_peaks

GIB = 1 << 30


@dataclasses.dataclass(frozen=True)
class Generation:
    """One generation of TPU chips.

    name: as in topology names. hbm_bytes: HBM per chip that a program can use. peak_flops: bf16 FLOP/s per chip.
    hbm_bandwidth: bytes/s per chip. cores_counted: how many TensorCores a marketing name counts per chip.
    sizes: number of chips -> dims of the slice. host: dims of the chips of one host in a larger slice.
    """

    name: str
    hbm_bytes: int
    peak_flops: float
    hbm_bandwidth: float
    cores_counted: int
    sizes: dict[int, tuple[int, ...]]
    host: tuple[int, int, int] = (2, 2, 1)


_FLAT: dict[int, tuple[int, ...]] = {
    1: (1, 1), 4: (2, 2), 8: (2, 4), 16: (4, 4), 32: (4, 8), 64: (8, 8), 128: (8, 16), 256: (16, 16),
}  # fmt: skip
_CUBE: dict[int, tuple[int, ...]] = {
    4: (2, 2, 1), 8: (2, 2, 2), 16: (2, 2, 4), 32: (2, 4, 4), 64: (4, 4, 4), 128: (4, 4, 8), 256: (4, 8, 8),
    512: (8, 8, 8), 1024: (8, 8, 16), 2048: (8, 16, 16), 4096: (16, 16, 16), 6144: (16, 16, 24),
}  # fmt: skip
GENERATIONS = {
    generation.name: generation
    for generation in (
        Generation(
            "v4", int(30.75 * GIB), device_peaks.TPU["v4"], 1228e9, 2, {k: v for k, v in _CUBE.items() if k <= 4096}
        ),
        Generation("v5e", int(15.75 * GIB), device_peaks.TPU["v5e"], 819e9, 1, _FLAT),
        Generation("v5p", int(95.74 * GIB), device_peaks.TPU["v5p"], 2765e9, 2, _CUBE),
        Generation("v6e", int(31.25 * GIB), device_peaks.TPU["v6e"], 1640e9, 1, _FLAT),
    )
}
_SPELLINGS = {"v5litepod": "v5e", "v5lite": "v5e", "v6litepod": "v6e"}


@dataclasses.dataclass(frozen=True)
class Topology:
    """One TPU slice. dims: chips along each axis of the torus."""

    generation: Generation
    dims: tuple[int, ...]

    @property
    def name(self) -> str:
        """The name as libtpu spells it, such as 'v5p:4x4x4'."""
        return f"{self.generation.name}:{'x'.join(map(str, self.dims))}"

    @property
    def marketing_name(self) -> str:
        """The name under which the slice is ordered, such as 'v5p-128'."""
        return f"{self.generation.name}-{self.chips * self.generation.cores_counted}"

    @property
    def chips(self) -> int:
        return math.prod(self.dims)

    @property
    def host_bounds(self) -> tuple[int, int, int]:
        """The chips of one host along each axis. v5e and v6e slices of up to 8 chips are one host."""
        if len(self.dims) == 2 and self.chips <= 8:
            return (*self.dims, 1)
        return self.generation.host

    @property
    def hosts(self) -> int:
        return self.chips // math.prod(self.host_bounds)


def parse(name: str) -> Topology:
    """Return the slice with this name.

    Raises ValueError that lists what is known, for an unknown generation, size or shape.
    """
    match = re.fullmatch(r"([a-z0-9]+)(?::(\d+(?:x\d+)*)|-(\d+))", name.strip().lower())
    generation = GENERATIONS.get(_SPELLINGS.get(match[1], match[1])) if match else None
    if match is None or generation is None:
        raise ValueError(
            f"topology {name!r}: give <generation>:<dims>, such as v5p:4x4x4, or a name such as v5p-128 or v6e-8;"
            f" generations are {', '.join(GENERATIONS)}."
        )
    if match[2]:
        dims = tuple(map(int, match[2].split("x")))
        topology = Topology(generation, dims)
        axes = len(next(iter(generation.sizes.values())))
        bounds = topology.host_bounds if len(dims) == axes else ()
        if len(dims) != axes or any(size < 1 or size % host for size, host in zip(dims, bounds, strict=False)):
            raise ValueError(
                f"topology {name!r}: {generation.name} takes {axes} dims that hosts of"
                f" {'x'.join(map(str, generation.host))} chips fill; known are {known(generation)}."
            )
        if topology.chips > max(generation.sizes):
            raise ValueError(
                f"topology {name!r}: {topology.chips} chips; the largest {generation.name} slice has"
                f" {max(generation.sizes)}; take several slices (mesh.dcn_data)."
            )
        return topology
    chips, rest = divmod(int(match[3]), generation.cores_counted)
    if rest or chips not in generation.sizes:
        counts = "TensorCores, two a chip" if generation.cores_counted == 2 else "chips"
        raise ValueError(
            f"topology {name!r}: {generation.name} names count {counts}; known are {known(generation)}. For another"
            f" shape give its dims, {generation.name}:<dims>."
        )
    return Topology(generation, generation.sizes[chips])


def known(generation: Generation) -> str:
    """Return the names of a generation's slices, for a message: 'v6e-1 (v6e:1x1), ..'."""
    slices = [Topology(generation, dims) for dims in generation.sizes.values()]
    return ", ".join(f"{one.marketing_name} ({one.name})" for one in slices)
