"""Evaluation from TFDS: this host's share of a split once, in order, optionally kept in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from big_vision_dual.train import pp
from big_vision_dual.train.data.base import Batch, DataError
from big_vision_dual.train.data.padded import PaddedBatches
from big_vision_dual.train.data.tfds import open_split
from big_vision_dual.train.data.training import check_batchable, pipeline_options
from big_vision_dual.train.pp.quiet_tf import tf

_PREFETCH = 2


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
    records = split.records()
    if cache == "raw":
        records = records.cache()

    @tf.autograph.experimental.do_not_convert
    def make(position: Any, record: Any) -> dict[str, Any]:
        seed = tf.stack([tf.constant(0, tf.int64), position * process_count + process_index])
        return preprocess(split.parse(record), seed)

    examples = records.enumerate().map(make, num_parallel_calls=tf.data.AUTOTUNE)
    check_batchable(examples)
    batches = examples.batch(size, num_parallel_calls=tf.data.AUTOTUNE)
    batches = batches.cache() if cache == "final" else batches.prefetch(_PREFETCH)
    batches = batches.with_options(pipeline_options())

    def read() -> Iterable[Batch]:
        return batches.as_numpy_iterator()

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
