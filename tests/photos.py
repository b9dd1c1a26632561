"""JPEG files to test input on: a photo-like one made here, and real ones where ../shared lies beside the clone."""

from __future__ import annotations

import io
import pathlib

import numpy as np
import pytest
from PIL import Image

SHARED_TFDS = pathlib.Path(__file__).parents[2] / "shared" / "data" / "tfds"


def synthetic(height: int = 150, width: int = 200, seed: int = 0) -> bytes:
    """Smooth coloured shapes, edges and some grain, not square, encoded as JPEG."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(height, width)
    photo_HxWxC = np.stack([90 + 60 * np.sin(7 * x + 3 * y * channel + seed) for channel in (1, 2, 3)], axis=-1)
    photo_HxWxC[(x - 0.4) ** 2 + (y - 0.3) ** 2 < 0.03] += (60, -40, 20)
    photo_HxWxC += 5 * rng.standard_normal(photo_HxWxC.shape)
    return encode(np.clip(photo_HxWxC, 0, 255).astype(np.uint8))


def encode(image: np.ndarray, kind: str = "JPEG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind)
    return file.getvalue()


def real(index: int) -> bytes:
    """Validation image `index` of ../shared/data/tfds/imagenet2012; skips where that is absent."""
    if not SHARED_TFDS.is_dir():
        pytest.skip(f"no real images: {SHARED_TFDS} is absent")
    from big_vision_dual.train.data.tfds import open_split

    split = {"name": "imagenet2012", "split": f"validation[{index}:{index + 1}]", "data_dir": str(SHARED_TFDS)}
    opened = open_split(split)
    return opened.parse(next(iter(opened.records())))["image"].numpy()


def load(name: str) -> bytes:
    """'synthetic', 'real0', 'real1', ... -> a JPEG file."""
    return synthetic() if name == "synthetic" else real(int(name.removeprefix("real")))
