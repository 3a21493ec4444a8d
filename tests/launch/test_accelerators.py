"""Names of TPU slices against the tables of the Cloud TPU and GKE documentation, written out by hand."""

import importlib
import math

import pytest

from masksearch_jax import topology


@pytest.fixture
def accelerators(launcher):
    return importlib.import_module("accelerators")


@pytest.mark.parametrize(
    "name, chips, hosts, topology, api, machine",
    [
        ("v5e-1", 1, 1, "1x1", "v5litepod-1", "ct5lp-hightpu-1t"),
        ("v5e-4", 4, 1, "2x2", "v5litepod-4", "ct5lp-hightpu-4t"),
        ("v5e-8", 8, 1, "2x4", "v5litepod-8", "ct5lp-hightpu-8t"),
        ("v5e-16", 16, 4, "4x4", "v5litepod-16", "ct5lp-hightpu-4t"),
        ("v5litepod-256", 256, 64, "16x16", "v5litepod-256", "ct5lp-hightpu-4t"),
        ("v6e-8", 8, 1, "2x4", "v6e-8", "ct6e-standard-8t"),
        ("v6e-32", 32, 8, "4x8", "v6e-32", "ct6e-standard-4t"),
        ("v5p-8", 4, 1, "2x2x1", "v5p-8", "ct5p-hightpu-4t"),
        ("v5p-128", 64, 16, "4x4x4", "v5p-128", "ct5p-hightpu-4t"),
        ("v4-8", 4, 1, "2x2x1", "v4-8", "ct4p-hightpu-4t"),
        ("v4-64", 32, 8, "2x4x4", "v4-64", "ct4p-hightpu-4t"),
    ],
)
def test_slices_of_the_documentation(accelerators, name, chips, hosts, topology, api, machine):
    found = accelerators.accelerator(name)
    assert (found.chips, found.hosts, found.topology) == (chips, hosts, topology)
    assert (found.accelerator_type, found.machine_type) == (api, machine)
    # The machine type ends in its number of chips.
    assert found.chips_per_host == int(machine.rpartition("-")[2].removesuffix("t"))


def test_every_topology_has_its_chips(accelerators):
    for generation in accelerators.GENERATIONS.values():
        for chips, shape in generation.topologies.items():
            assert math.prod(map(int, shape.split("x"))) == chips


@pytest.mark.parametrize("name", ["v5e-12", "v5p-4", "v5p-9", "v7-8", "v6e", "v6e-", "h100-8"])
def test_a_name_that_does_not_exist_is_refused_by_name(accelerators, name):
    with pytest.raises(ValueError, match=name):
        accelerators.accelerator(name)


def test_the_refusal_lists_the_sizes_as_they_are_named(accelerators):
    with pytest.raises(ValueError, match="cores, two to a chip: v5p-8, v5p-16, .*v5p-128"):
        accelerators.accelerator("v5p-12")


def test_the_package_knows_the_same_slices(accelerators):
    """The launchers hold a table of their own, because they run where nothing of the project is installed."""
    for version, generation in accelerators.GENERATIONS.items():
        for chips in generation.topologies:
            ours = accelerators.accelerator(f"{version}-{chips * generation.cores_per_chip}")
            theirs = topology.parse(ours.name)
            assert (theirs.chips, theirs.hosts, "x".join(map(str, theirs.dims))) == (chips, ours.hosts, ours.topology)
            assert topology.parse(ours.accelerator_type) == theirs
