"""The least time that published peaks allow for a step: the longest of computing, memory traffic and interconnect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from big_vision_dual.pods.hlo import Collective
from big_vision_dual.pods.topologies import Slice


@dataclass(frozen=True)
class Roofline:
    """Seconds a step at bf16 peak, at full HBM bandwidth, at full interconnect bandwidth."""

    compute: float
    memory: float
    interconnect: float

    @property
    def seconds(self) -> float:
        return max(self.compute, self.memory, self.interconnect)

    @property
    def bound(self) -> str:
        """What limits the step."""
        times = {"compute": self.compute, "memory": self.memory, "interconnect": self.interconnect}
        return max(times, key=times.__getitem__)


def roofline(tpu: Slice, flops: float, bytes_accessed: float, collectives: Sequence[Collective]) -> Roofline:
    """`flops` and `bytes_accessed` per device and step."""
    sent = sum(sent_per_chip(collective, tpu) for collective in collectives)
    return Roofline(
        compute=flops * tpu.chip.devices / tpu.chip.flops,
        memory=bytes_accessed * tpu.chip.devices / tpu.chip.hbm_bandwidth,
        interconnect=sent / tpu.ici_bandwidth if tpu.chips > 1 else 0.0,
    )


def sent_per_chip(collective: Collective, tpu: Slice) -> float:
    """Bytes that a chip sends in a step for one collective, at best (Thakur et al. 2005, ring algorithms).

    Devices of one chip are combined inside it first; N chips then send (N - 1)/N of the buffer for an all-gather,
    a reduce-scatter or an all-to-all, twice that for an all-reduce, and all of it for a permutation.
    """
    chips = max(1, collective.group_size // tpu.chip.devices)
    if chips == 1:
        return 0.0
    rounds = {"all-reduce": 2.0, "collective-permute": chips / (chips - 1)}.get(collective.kind, 1.0)
    return collective.times * rounds * collective.bytes * (chips - 1) / chips
