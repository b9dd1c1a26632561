"""Training and evaluation data: TFDS through tf.data, or arrays and text kept on the device. No TensorFlow at import.

A training source is a function of (config, seed, step): `batches(step)` starts at any step with what an
uninterrupted run would have got there, so a checkpoint only has to hold the step.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from big_vision_dual.train.data import arrays, text
from big_vision_dual.train.data.base import Batch, DataError, local_size
from big_vision_dual.train.data.padded import PaddedBatches

__all__ = ["Batch", "DataError", "PaddedBatches", "Source", "check_classes", "evaluation", "make"]

_SETTINGS = ("data", "batch_size", "pp", "shuffle_buffer_size", "cache_raw", "prefetch", "augment", "accum_freq",
             "skip_bad_records", "keep_only", "pre_filter_fn")  # fmt: skip


_log = logging.getLogger(__name__)


class Source(Protocol):
    """Training data of one host, forever."""

    @property
    def num_examples(self) -> int:
        """Size of one epoch, over all hosts."""
        ...

    @property
    def num_classes(self) -> int | None:
        """How many classes the data set has, or values a token; None where it does not say."""
        ...

    def shapes(self) -> dict[str, Any]:
        """{name: shape} of one example."""
        ...

    def batches(self, start_step: int = 0) -> Iterator[dict[str, np.ndarray]]:
        """This host's share of the batches start_step, start_step + 1, ...: {name: (local batch, ...)}."""
        ...


def make(
    config: Mapping[str, Any],
    *,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    pp_modules: Iterable[str] = (),
) -> Source:
    """The training source of `config.input`.

    data: dict(name=, split=, data_dir=), of TFDS, of `arrays`, `text` or `jsonl`; or, mixed by weights,
      dict(part=weight, ...) with each part's data, pp, shuffle_buffer_size, cache_raw, pre_filter_fn in `config.part`.
    batch_size: of all hosts together; process_count must divide it.
    pp: op string (see `big_vision_dual.train.pp`), of TFDS. augment: what the devices do to the images of a batch while
      they are raw pixels (see `augment`), which are scaled to [-1, 1] afterwards; a `pp` before it leaves them uint8.
    shuffle_buffer_size: examples held, still encoded, to draw from; cache_raw: hold all of this host's.
    keep_only: entries of an example that are left after preprocessing, of all parts. pre_filter_fn: a function of
      TensorFlow, {entry: tensor} -> bool, of examples before preprocessing, images still encoded.
    prefetch: batches made ahead (default 2). accum_freq is the trainer's.
    skip_bad_records: so many records of TFDS that cannot be read or preprocessed are replaced by others; default 0.

    Raises `DataError` for a missing data set, an unknown setting or a batch size that does not divide.
    """
    data = dict(config["data"])
    parts = () if "name" in data else tuple(data)
    unknown = sorted(set(config) - {*_SETTINGS, *parts})
    if unknown:
        raise DataError(f"config.input has unknown settings {unknown}; possible: {', '.join(_SETTINGS)}.")
    where = {"seed": seed, "process_index": process_index, "process_count": process_count}
    local_size(config["batch_size"], process_count)
    if not parts and data["name"] == text.NAME:
        return text.ByteSource.from_config(config, **where)
    if not parts and arrays.is_array_name(data["name"]):
        return arrays.ArraySource.from_config(config, **where)
    from big_vision_dual.train.data import training

    return training.TfdsSource.from_config(config, pp_modules=tuple(pp_modules), **where)


def input_shape(source: Source) -> tuple[int, ...]:
    """(H, W, C) of the images of a source, or (L,) of its windows of text. Raises `DataError` where that is open."""
    shapes = source.shapes()
    if "tokens" in shapes:
        return (shapes["tokens"][0] - 1,)
    shape = shapes.get("image", (None,))
    if None in shape:
        raise DataError(
            f"config.input_shape is not given, and the examples leave it open: {shapes}. Give "
            "--config.input_shape='(H, W, C)', or end config.input.pp with a crop or a resize to a fixed size."
        )
    return shape


def check_classes(source: Source, num_classes: int) -> None:
    """Raises `DataError` where the data set has more classes than the model; warns where it has fewer."""
    given = source.num_classes
    if given is not None and given > num_classes:
        raise DataError(
            f"config.input.data has {given} classes, config.num_classes is {num_classes}; set that to {given}, or map "
            "the labels with the op lookup([...])."
        )
    if given is not None and given < num_classes:
        _log.warning("config.num_classes is %d, and config.input.data has %d classes only", num_classes, given)


def evaluation(
    data: Mapping[str, Any],
    pp_fn: str,
    batch_size: int,
    *,
    process_index: int = 0,
    process_count: int = 1,
    cache: str = "none",
    pp_modules: Iterable[str] = (),
) -> PaddedBatches:
    """Every example of a split once, over all hosts, in batches padded to equal shape and number a host.

    data: dict(name=, split=, data_dir=) as in `make`. pp_fn: op string; arrays need none and ignore it.
    cache: 'none', 'raw' (this host's encoded examples stay in memory) or 'final' (its finished batches do).
    """
    local = local_size(batch_size, process_count)
    if cache not in ("none", "raw", "final"):
        raise DataError(f"cache is {cache!r}; possible: 'none', 'raw', 'final'.")
    if data["name"] == text.NAME:
        return text.padded(data, local, process_index, process_count)
    if arrays.is_array_name(data["name"]):
        return arrays.padded(data, local, process_index, process_count)
    from big_vision_dual.train.data import finite

    return finite.padded(data, pp_fn, local, process_index, process_count, cache, tuple(pp_modules))
