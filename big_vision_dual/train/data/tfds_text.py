"""The text of a TFDS split as bytes. Imports TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from big_vision_dual.train.data import tfds as splits
from big_vision_dual.train.data.base import DataError

_BETWEEN = b"\n"  # documents


def read(data: Mapping[str, Any], feature: str) -> np.ndarray:
    """The documents of dict(name=, split=, data_dir=), see `tfds.open_split`, one after the other: uint8 (N,).

    feature: which feature is the text. The order is that in which files are read side by side, the same every time.
    Raises `DataError` for a missing split, or a feature that is no text.
    """
    split = splits.open_split(data)
    texts = [name for name, kind in split.features.items() if isinstance(kind, tfds.features.Text)]
    if feature not in texts:
        raise DataError(f"{data['name']} has no text feature {feature!r}; possible: {', '.join(texts) or 'none'}.")
    documents = [split.parse(record)[feature].numpy() for record in split.records()]
    return np.frombuffer(_BETWEEN.join(documents), np.uint8)
