"""Times a run: images per second, step time, waits for data, MFU, core hours, time to go."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator


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
