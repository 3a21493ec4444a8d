"""Names of TPU slices against the tables of the Cloud TPU and GKE documentation, written out by hand."""

import importlib

import pytest

from configs import recipes
from masksearch_jax.aot import topologies


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


def test_every_slice_of_the_table_has_a_name_at_each_service(accelerators):
    """One table: what the recipes and the compiler know, the launchers order."""
    for generation in topologies.GENERATIONS.values():
        for dims in generation.sizes.values():
            ours = topologies.Topology(generation, dims)
            for name in (ours.name, ours.marketing_name):
                found = accelerators.accelerator(name)
                assert (found.chips, found.hosts, found.topology) == (ours.chips, ours.hosts, ours.name.split(":")[1])
                assert topologies.parse(found.accelerator_type) == ours
                # The machine type ends in its number of chips.
                assert found.machine_type.endswith(f"-{ours.chips // ours.hosts}t")


@pytest.mark.parametrize("wanted", sorted({recipe.topology for recipe in recipes.RECIPES.values()}))
@pytest.mark.parametrize("name", ["gke", "tpu_vm"])
def test_every_slice_of_a_recipe_is_ordered_by_each_launcher(launcher, name, wanted):
    where = ("--project=p", "--zone=z") if name == "tpu_vm" else ()
    arguments = ("--workdir=gs://b/runs/demo", *where, f"--accelerator={wanted}", "--config=configs/dapo.py")
    done = launcher(name, "create", *arguments, "--dry-run")
    assert done.returncode == 0, done.stderr
    slice_ = topologies.parse(wanted)
    assert f"{slice_.chips} chips on {slice_.hosts} host(s)" in done.stdout
    ordered = {"gke": f"completions: {slice_.hosts}\n", "tpu_vm": "--accelerator-type="}[name]
    assert ordered in done.stdout


@pytest.mark.parametrize("name", ["v5e-12", "v5p-4", "v5p-9", "v7-8", "v6e", "v6e-", "h100-8", "v5p:2x2x16"])
def test_a_name_that_does_not_exist_is_refused_by_name(accelerators, name):
    with pytest.raises(ValueError, match=name):
        accelerators.accelerator(name)


def test_the_refusal_lists_the_sizes_as_they_are_named(accelerators):
    with pytest.raises(ValueError, match=r"TensorCores, two a chip; known are v5p-8 .*v5p-128 .*v5p-8192"):
        accelerators.accelerator("v5p-12")
    with pytest.raises(ValueError, match="usual shape only; a slice of 64 chips is 4x4x4"):
        accelerators.accelerator("v5p:2x2x16")


@pytest.mark.parametrize("text", ["", "4", "h", "4 h", "-4h", "30s", "8d", "4hours", "1e9s"])
def test_a_duration_that_is_none_is_refused(accelerators, text):
    cloud_run = importlib.import_module("cloud_run")
    with pytest.raises(ValueError, match=f"--flex-start={text}: not a duration"):
        cloud_run.seconds_of(text)
    assert [cloud_run.seconds_of(one) for one in ("4h", "1d12h", "90m", "7d")] == [14_400, 129_600, 5400, 604_800]
