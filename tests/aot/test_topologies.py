"""Names of slices against the published tables, and their errors."""

import math

import pytest

from masksearch_jax.aot import topologies


# Rows of the tables at cloud.google.com/tpu/docs: accelerator type, topology, chips, hosts.
@pytest.mark.parametrize(
    ("name", "libtpu", "chips", "hosts"),
    [
        ("v4-8", "v4:2x2x1", 4, 1),
        ("v4-4096", "v4:8x16x16", 2048, 512),
        ("v5litepod-1", "v5e:1x1", 1, 1),
        ("v5litepod-8", "v5e:2x4", 8, 1),
        ("v5e-16", "v5e:4x4", 16, 4),
        ("v5litepod-256", "v5e:16x16", 256, 64),
        ("v5p-8", "v5p:2x2x1", 4, 1),
        ("v5p-128", "v5p:4x4x4", 64, 16),
        ("v5p-8192", "v5p:16x16x16", 4096, 1024),
        ("v5p-12288", "v5p:16x16x24", 6144, 1536),
        ("v6e-1", "v6e:1x1", 1, 1),
        ("V6E-8", "v6e:2x4", 8, 1),
        ("v6e-32", "v6e:4x8", 32, 8),
        ("v5p:4x4x8", "v5p:4x4x8", 128, 32),
        ("v5p:4x4x12", "v5p:4x4x12", 192, 48),  # no row of the table, and a real shape
    ],
)
def test_names(name, libtpu, chips, hosts):
    found = topologies.parse(name)
    assert (found.name, found.chips, found.hosts) == (libtpu, chips, hosts)
    assert topologies.parse(found.name) == found


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("v3-8", "generations are v4, v5e, v5p, v6e"),
        ("h100", "give <generation>:<dims>"),
        ("v5p-64x", "give <generation>"),
        ("v5p-12", r"count TensorCores, two a chip; known are v5p-8 \(v5p:2x2x1\)"),
        ("v5p-7", "count TensorCores"),
        ("v6e-3", r"count chips; known are v6e-1 \(v6e:1x1\)"),
        ("v5p:4x4", "takes 3 dims"),
        ("v5e:4x4x4", "takes 2 dims"),
        ("v5p:3x4x4", "hosts of 2x2x1"),
        ("v5p:32x32x32", "the largest v5p slice has 6144"),
    ],
)
def test_errors_list_what_is_known(name, says):
    with pytest.raises(ValueError, match=says):
        topologies.parse(name)


def test_tables_are_consistent():
    for generation in topologies.GENERATIONS.values():
        for chips, dims in generation.sizes.items():
            assert math.prod(dims) == chips
            one = topologies.Topology(generation, dims)
            assert one.hosts * math.prod(one.host_bounds) == chips
            assert topologies.parse(one.marketing_name) == one
