"""The order of training examples: endless, seeded, and startable anywhere. Records stay encoded here.

Every epoch is a permutation of this host's examples that depends on the seed and the epoch alone;
nothing is carried from one epoch to the next. Starting at example p skips p // n epochs by arithmetic
and the rest of p before anything is decoded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from big_vision_dual.train.data.base import DataError
from big_vision_dual.train.data.tfds import Split
from big_vision_dual.train.pp.quiet_tf import Dataset, tf

_MAX_INT64 = np.iinfo(np.int64).max
_PERIOD = 10_000  # of a mixture: weights are met exactly, to 1/_PERIOD, in each run of so many examples


def records(split: Split, *, seed: int, start: int, shuffle_buffer_size: int, cache_raw: bool) -> Dataset:
    """Training examples from position `start` of the endless stream on, as `Split.located` gives them.

    Uncached, the order of the files is drawn for each epoch and a buffer of `shuffle_buffer_size`
    examples shuffled on top (0: as on disk). With `cache_raw` all examples are read into memory first,
    and each epoch is a uniform permutation, unless shuffle_buffer_size is 0.
    """
    epoch, skip = divmod(start, split.num_examples)
    one_epoch = (_cached_epoch if cache_raw else _epoch)(split, seed, shuffle_buffer_size)
    return tf.data.Dataset.range(epoch, _MAX_INT64).flat_map(one_epoch).skip(skip)


def _epoch(split: Split, seed: int, buffer_size: int) -> Any:
    if not buffer_size:
        return lambda _: split.located()

    def read(epoch: Any) -> Dataset:
        file_seed, buffer_seed = tf.unstack(_epoch_seed(seed, epoch))
        order = _shuffled(len(split.files), (file_seed, buffer_seed))
        return split.located(order).shuffle(buffer_size, seed=buffer_seed, reshuffle_each_iteration=False)

    return read


def _cached_epoch(split: Split, seed: int, buffer_size: int) -> Any:
    every_N = split.located().batch(split.num_examples).get_single_element()  # batching moves strings, concat copies

    def entry(index: Any) -> Any:
        return tuple(column[index] for column in every_N)

    def read(epoch: Any) -> Dataset:
        in_order = tf.data.Dataset.range(split.num_examples)
        if not buffer_size:
            return in_order.map(entry)
        order = _shuffled(split.num_examples, _epoch_seed(seed, epoch))
        return tf.data.Dataset.from_tensor_slices(order).map(entry)

    return read


def _epoch_seed(seed: int, epoch: Any) -> Any:
    pair = tf.stack([tf.constant(seed, tf.int64), tf.cast(epoch, tf.int64)])
    return tf.random.stateless_uniform((2,), pair, minval=None, maxval=None, dtype=tf.int64)


def _shuffled(count: int, seed: Any) -> Any:
    return tf.random.experimental.stateless_shuffle(tf.range(count, dtype=tf.int64), seed)


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Which part each example of a mixed stream is taken from: a function of (seed, position).

    Each run of 10,000 examples holds every part as often as its weight says, in an order of its own.
    """

    weights: tuple[float, ...]
    seed: int

    def __post_init__(self) -> None:
        if min(self.weights) < 0 or sum(self.weights) <= 0:
            raise DataError(f"mixture weights are {list(self.weights)}; possible: numbers >= 0, not all 0.")

    @property
    def counts(self) -> np.ndarray:
        """Examples of each part in one period, by the largest remainder."""
        share = np.array(self.weights) / sum(self.weights) * _PERIOD
        counts = np.floor(share).astype(np.int64)
        counts[np.argsort(counts - share, kind="stable")[: _PERIOD - counts.sum()]] += 1
        return counts

    def period(self, index: Any) -> Any:
        """The parts of examples index * 10,000 ... (index + 1) * 10,000 - 1: int64 (10,000,)."""
        parts = np.repeat(np.arange(len(self.weights)), self.counts)
        return tf.gather(tf.constant(parts), _shuffled(_PERIOD, _epoch_seed(self.seed, index)))

    def given(self, start: int) -> Sequence[int]:
        """How many examples of each part come before position `start`."""
        whole, rest = divmod(start, _PERIOD)
        partial = np.bincount(self.period(whole).numpy()[:rest], minlength=len(self.weights))
        return [int(count) for count in whole * self.counts + partial]

    def choices(self, start: int) -> Dataset:
        """The parts from position `start` on, endless: int64 scalars."""
        whole, rest = divmod(start, _PERIOD)
        periods = tf.data.Dataset.range(whole, _MAX_INT64)
        return periods.flat_map(lambda index: tf.data.Dataset.from_tensor_slices(self.period(index))).skip(rest)
