import dataclasses

import pytest

from big_vision_dual.pods import topologies
from big_vision_dual.pods.hlo import Collective
from big_vision_dual.pods.roofline import roofline, sent_per_chip


def test_each_limit_is_work_over_the_published_peak_of_a_chip():
    v4 = topologies.parse("v4-32")
    limits = roofline(v4, 275e9, 2.4e9, [Collective("all-reduce", 10**8, 16, 1)])
    assert limits.compute == pytest.approx(1e-3)
    assert limits.memory == pytest.approx(2e-3)
    assert limits.interconnect == pytest.approx(2 * 1e8 * 15 / 16 / 200e9)
    assert (limits.seconds, limits.bound) == (limits.memory, "memory")


def test_two_devices_share_a_v3_chip():
    v3 = topologies.parse("v3-8")
    limits = roofline(v3, 61.5e9, 0.45e9, [Collective("all-gather", 4 * 10**6, 8, 3)])
    assert limits.compute == pytest.approx(1e-3)
    assert limits.memory == pytest.approx(1e-3)
    assert limits.interconnect == pytest.approx(3 * 4e6 * 3 / 4 / 140e9)  # 8 devices are 4 chips


@pytest.mark.parametrize(
    ("kind", "sent"), [("all-reduce", 1.5), ("all-gather", 0.75), ("reduce-scatter", 0.75), ("all-to-all", 0.75),
                       ("collective-permute", 1.0)]
)  # fmt: skip
def test_a_ring_sends_its_share(kind, sent):
    assert sent_per_chip(Collective(kind, 1000, 4, 1), topologies.parse("v5e-4")) == pytest.approx(1000 * sent)


def test_devices_of_one_chip_need_no_link():
    assert sent_per_chip(Collective("all-reduce", 1000, 2, 1), topologies.parse("v3-8")) == 0
    assert roofline(dataclasses.replace(topologies.parse("v6e-4"), shape=(1, 1)), 1.0, 1.0, []).interconnect == 0
