"""The split that `config.input.data` names, whatever holds it on disk, and what a filter leaves of one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from big_vision_dual.train.data import jsonl, tfds
from big_vision_dual.train.data.base import DataError
from big_vision_dual.train.data.tfds import Split
from big_vision_dual.train.pp.quiet_tf import said, tf


def open_split(data: Mapping[str, Any], process_index: int = 0, process_count: int = 1) -> Split:
    """The share of a host in lines of JSON (`jsonl`), or in a data set of TFDS (`tfds.open_split`)."""
    if data["name"] == jsonl.NAME:
        return jsonl.open_lines(data, process_index, process_count)
    if data["name"].startswith("bv:"):
        raise DataError(f"no data set {data['name']!r}; of Big Vision's own, {jsonl.NAME!r} is here.")
    return tfds.open_split(data, process_index, process_count)


def filtered(split: Split, keep: Callable[[Mapping[str, Any]], Any]) -> Split:
    """`split` with the examples only that `keep`, a function of TensorFlow, says True of, images still encoded.

    All of the host's records are read once, to know how many are left: a stream can then start anywhere in an epoch.
    `total_examples` stays that of all. Raises `DataError` where the filter fails.
    """

    @tf.autograph.experimental.do_not_convert
    def kept(example: Mapping[str, Any]) -> Any:
        return keep(example)

    chosen = dataclasses.replace(split, keep=kept)
    try:
        count = chosen.located().reduce(tf.constant(0, tf.int64), lambda sum, *_: sum + 1)
    except (tf.errors.OpError, KeyError, TypeError, ValueError) as error:
        reason = said(error) if isinstance(error, tf.errors.OpError) else str(error).strip().splitlines()[-1].strip()
        raise DataError(f"config.input.pre_filter_fn fails on {split.files[0][0]}: {reason}.") from error
    return dataclasses.replace(chosen, num_examples=int(count))
