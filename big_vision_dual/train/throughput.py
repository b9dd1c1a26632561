"""Peak FLOP/s of devices, and what a run takes: images per second, waits for data, MFU, core hours. No JAX."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

# bf16 FLOP/s of one JAX device (a TensorCore on v2 and v3, a chip on the others), dense.
# Sources: cloud.google.com/tpu/docs/{v2,v3,v4,v5e,v5p,v6e}; nvidia.com data sheets of A100, H100 SXM, H200 SXM.
PEAK_FLOPS = {
    "TPU v2": 22.5e12,
    "TPU v3": 61.5e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
}


def peak(device: Any) -> float | None:
    """bf16 FLOP/s of a JAX device, None for kinds without a published number (a CPU)."""
    return PEAK_FLOPS.get(device.device_kind)


class Clock:
    """Measures training between two `report`s; what happens in `paused` (evaluation, checkpoints) does not count.

    batch_size: images of a step, over all hosts. devices: of all hosts. step_flops: model FLOPs of a step;
    peak_flops: FLOP/s of one device, None where unknown. core_seconds: already spent before this process.
    """

    def __init__(
        self, batch_size: int, devices: int, step_flops: float, peak_flops: float | None, core_seconds: float = 0.0
    ):
        self._batch_size, self._devices = batch_size, devices
        self._step_flops, self._peak_flops = step_flops, peak_flops
        self._core_seconds_before = core_seconds
        self._started = time.monotonic()
        self.start()

    def start(self) -> None:
        """Begins a new measurement; core seconds go on."""
        self._since = time.monotonic()
        self._steps, self._waited, self._paused = 0, 0.0, 0.0

    @property
    def core_seconds(self) -> float:
        """Devices times seconds, since the run began: restarts add up, and evaluation counts."""
        return self._core_seconds_before + self._devices * (time.monotonic() - self._started)

    def step(self) -> None:
        self._steps += 1

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Around what waits for input."""
        start = time.monotonic()
        yield
        self._waited += time.monotonic() - start

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Around what is not training."""
        start = time.monotonic()
        yield
        self._paused += time.monotonic() - start

    def report(self) -> dict[str, float]:
        """The measurements since the last report; empty where no step was taken."""
        seconds = time.monotonic() - self._since - self._paused
        steps, waited = self._steps, self._waited
        self.start()
        if not steps or seconds <= 0:
            return {}
        rate = steps * self._batch_size / seconds
        measured = {
            "img/sec": rate,
            "img/sec/core": rate / self._devices,
            "step_seconds": seconds / steps,
            "data_wait_seconds": waited / steps,
            "core_hours": self.core_seconds / 3600,
        }
        if self._peak_flops:
            measured["mfu"] = self._step_flops * steps / seconds / (self._peak_flops * self._devices)
        return measured
