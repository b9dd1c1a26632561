"""Training data that lives on the devices, where each batch is drawn from it."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from big_vision_dual.train.data.base import Batch, local_size


class DrawnSource(abc.ABC):
    """A `data.Source` whose batches are a pure function of (arrays, step); every host holds all arrays."""

    batch_size: int
    process_index: int
    process_count: int

    @property
    @abc.abstractmethod
    def num_examples(self) -> int:
        """Size of one epoch."""

    @abc.abstractmethod
    def on_device(self) -> dict[str, jax.Array]:
        """The arrays to hand to `batch`: an argument of the compiled step, not a constant in it."""

    @abc.abstractmethod
    def batch(self, arrays: Mapping[str, jax.Array], step: Any, seed: Any = None) -> dict[str, jax.Array]:
        """Batch `step` of all hosts, jit-able and vmap-able in step and seed (default: the source's own)."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """{name: shape} of one example of a batch."""
        batch = jax.eval_shape(lambda: self.batch(self.on_device(), 0))
        return {name: leaf.shape[1:] for name, leaf in batch.items()}

    def batches(self, start_step: int = 0) -> Iterator[Batch]:
        """This host's part of each batch as NumPy arrays, for a loop that is fed from outside."""
        arrays, size = self.on_device(), local_size(self.batch_size, self.process_count)
        mine = slice(self.process_index * size, (self.process_index + 1) * size)
        step = start_step
        while True:
            yield {name: np.asarray(value[mine]) for name, value in self.batch(arrays, step).items()}
            step += 1
