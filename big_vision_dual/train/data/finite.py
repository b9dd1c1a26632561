"""Evaluation from TFDS: this host's share of a split once, in order, optionally kept in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from big_vision_dual.train import pp
from big_vision_dual.train.data import faults
from big_vision_dual.train.data.base import Batch, DataError
from big_vision_dual.train.data.padded import PaddedBatches
from big_vision_dual.train.data.splits import open_split
from big_vision_dual.train.data.training import check_batchable, pipeline_options
from big_vision_dual.train.pp.quiet_tf import tf

_PREFETCH = 2
_ADVICE = "An evaluation needs every record: prepare the data set again, or evaluate a slice without them."


def padded(
    data: Mapping[str, Any],
    pp_fn: str,
    size: int,
    process_index: int,
    process_count: int,
    cache: str,
    pp_modules: tuple[str, ...],
) -> PaddedBatches:
    """The evaluation batches of a split; see `data.evaluation`."""
    preprocess = pp.get_preprocess_fn(pp_fn, pp_modules)
    split = open_split(data, process_index, process_count)

    @tf.autograph.experimental.do_not_convert
    def make(position: Any, record: Any) -> dict[str, Any]:
        seed = tf.stack([tf.constant(0, tf.int64), position * process_count + process_index])
        return preprocess(split.parse(record), seed)

    located = split.located().cache() if cache == "raw" else split.located()
    examples = located.enumerate().map(
        lambda position, found: make(position, found[0]), num_parallel_calls=tf.data.AUTOTUNE
    )
    check_batchable(examples.element_spec)
    batches = examples.batch(size, num_parallel_calls=tf.data.AUTOTUNE)
    batches = batches.cache() if cache == "final" else batches.prefetch(_PREFETCH)
    batches = batches.with_options(pipeline_options())

    def read() -> Iterable[Batch]:
        try:
            yield from batches.as_numpy_iterator()
        except tf.errors.OpError as error:
            one_by_one = split.located().enumerate().map(lambda position, found: (0, position, *found))
            faults.mended(error, [split], [make], lambda: one_by_one, faults.Faults(0, _ADVICE))

    def empty() -> Batch:
        return {name: _no_examples(name, spec) for name, spec in examples.element_spec.items()}

    return PaddedBatches(split.total_examples, size, process_index, process_count, read, empty)


def _no_examples(name: str, spec: Any) -> np.ndarray:
    if not spec.shape.is_fully_defined():
        raise DataError(
            f"this host has no examples to evaluate, and preprocessing leaves {name!r} without a fixed shape "
            f"{spec.shape}; end with a crop or a resize to a fixed size, or evaluate on fewer hosts."
        )
    return np.zeros((0, *spec.shape), spec.dtype.as_numpy_dtype)
