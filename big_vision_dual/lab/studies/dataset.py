"""Training and validation data of a study, whole, on the device."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from big_vision_dual.train import data
from big_vision_dual.train.data import arrays, text
from big_vision_dual.train.data.augment import augment_fn
from big_vision_dual.train.data.drawn import DrawnSource

_READ = 256  # examples a batch while reading


def training(config: Mapping[str, Any]) -> DrawnSource:
    """`config.input` as a source on the device; TFDS splits are decoded once and kept (mind their size)."""
    given = config["input"]
    if given["data"]["name"] == text.NAME:
        return text.ByteSource.from_config(given, seed=config["seed"] or 0, process_index=0, process_count=1)
    return arrays.ArraySource(
        load(given["data"], config), given["batch_size"], augment_fn(given.get("augment") or ""), config["seed"] or 0
    )


def validation(config: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The split of `config.evals.val.data`: {image, label} as stored, or {tokens}."""
    given = config["evals"]["val"]["data"]
    if given["name"] == text.NAME:
        return {"tokens": text.windows(given)}
    split = load(given, config)
    return {"image": split.images, "label": split.labels}


def load(given: Mapping[str, Any], config: Mapping[str, Any]) -> arrays.Arrays:
    """`dict(name=, split=, data_dir=)` of TFDS or of `data.arrays`, as arrays resized to `config.input_shape`."""
    if arrays.is_array_name(given["name"]):
        return arrays.load(given["name"], given["split"])
    shape = tuple(config["input_shape"])
    return _from_tfds(json.dumps(dict(given), sort_keys=True), shape, config["num_classes"])


@functools.cache
def _from_tfds(given: str, shape: tuple[int, ...], num_classes: int) -> arrays.Arrays:
    described = {key: value for key, value in json.loads(given).items() if value is not None}
    resize = f"decode|resize({shape[0]})|keep('image', 'label')"
    batches = list(data.evaluation(described, resize, _READ))
    keep = [batch["_mask"] > 0 for batch in batches]
    images = np.concatenate([batch["image"][rows] for batch, rows in zip(batches, keep, strict=True)])
    labels = np.concatenate([batch["label"][rows] for batch, rows in zip(batches, keep, strict=True)])
    return arrays.Arrays(images, labels.astype(np.int32), num_classes)
