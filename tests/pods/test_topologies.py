import pytest

from big_vision_dual.pods import topologies

# name, chip grid, chips, JAX devices, hosts, gcloud's accelerator type: from Google's tables of each version.
SLICES = [
    ("v3-8", (2, 2), 4, 8, 1, "v3-8"),
    ("v3-32", (4, 4), 16, 32, 4, "v3-32"),
    ("v4-32", (2, 2, 4), 16, 16, 4, "v4-32"),
    ("v5e-8", (2, 4), 8, 8, 1, "v5litepod-8"),
    ("v5e-16", (4, 4), 16, 16, 4, "v5litepod-16"),
    ("v5p-8", (2, 2, 1), 4, 4, 1, "v5p-8"),
    ("v6e-256", (16, 16), 256, 256, 64, "v6e-256"),
]


@pytest.mark.parametrize(("name", "shape", "chips", "devices", "hosts", "accelerator"), SLICES)
def test_a_name_gives_the_slice(name, shape, chips, devices, hosts, accelerator):
    tpu = topologies.parse(name)
    assert (tpu.shape, tpu.chips, tpu.devices, tpu.hosts) == (shape, chips, devices, hosts)
    assert tpu.accelerator_type == accelerator
    assert topologies.parse(accelerator) == tpu


def test_every_known_name_parses_to_itself():
    assert [topologies.parse(name).name for name in topologies.known()] == topologies.known()


@pytest.mark.parametrize("name", ["v4-31", "v4-33", "v5e-17", "v9-8", "v4", ""])
def test_an_unknown_name_lists_what_is_possible(name):
    with pytest.raises(topologies.TopologyError, match=r"possible: .*v\d"):
        topologies.parse(name)


def test_memory_and_links_are_per_device_and_per_shape():
    v3 = topologies.parse("v3-8")
    assert v3.hbm_per_device == 16 * topologies.GIB  # two devices share a chip's 32 GiB
    assert v3.ici_bandwidth == 2 * 70e9  # 2x2: one link along each axis
    assert topologies.parse("v4-32").ici_bandwidth == (1 + 1 + 2) * 50e9
