"""Evaluation batches: every example once over all hosts, the same number of equally shaped batches a host."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from big_vision_dual.train.data.base import Batch, host_range


@dataclasses.dataclass(frozen=True)
class PaddedBatches:
    """One host's batches of a finite split, to be iterated as often as wanted.

    num_examples: of the split, over all hosts.
    local_size: examples a batch on this host. process_index, process_count: which host this is.
    read: gives this host's examples once, in batches of `local_size`, the last one possibly smaller.
    empty: a batch of no examples, {name: (0, ...)}: what a host without any takes shapes and dtypes from.
    """

    num_examples: int
    local_size: int
    process_index: int
    process_count: int
    read: Callable[[], Iterable[Batch]]
    empty: Callable[[], Batch]

    @property
    def num_batches(self) -> int:
        """The same on all hosts, so that collective operations stay in step."""
        hosts = (host_range(self.num_examples, host, self.process_count) for host in range(self.process_count))
        return -(-max(map(len, hosts)) // self.local_size)

    def __iter__(self) -> Iterator[Batch]:
        """Batches {name: (local_size, ...)} with `_mask` float32: 1 for an example, 0 for padding (zeros)."""
        given, batch = 0, None
        for batch in self.read():
            yield _padded(batch, self.local_size)
            given += 1
        for _ in range(given, self.num_batches):
            batch = {name: value[:0] for name, value in (batch or self.empty()).items()}
            yield _padded(batch, self.local_size)


def _padded(batch: Batch, size: int) -> Batch:
    have = len(next(iter(batch.values())))
    padded = {
        name: np.pad(value, [(0, size - have)] + [(0, 0)] * (value.ndim - 1)) if have < size else value
        for name, value in batch.items()
    }
    return {**padded, "_mask": (np.arange(size) < have).astype(np.float32)}
