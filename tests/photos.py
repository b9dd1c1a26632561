"""JPEG files to test input on: photo-like ones, made here."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image


def synthetic(height: int = 150, width: int = 200, seed: int = 0, **options: Any) -> bytes:
    """Smooth coloured shapes, edges and some grain, not square, encoded as JPEG with PIL's `options`."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(height, width)
    photo_HxWxC = np.stack([90 + 60 * np.sin(7 * x + 3 * y * channel + seed) for channel in (1, 2, 3)], axis=-1)
    photo_HxWxC[(x - 0.4) ** 2 + (y - 0.3) ** 2 < 0.03] += (60, -40, 20)
    photo_HxWxC += 5 * rng.standard_normal(photo_HxWxC.shape)
    return encode(np.clip(photo_HxWxC, 0, 255).astype(np.uint8), **options)


def encode(image: np.ndarray, kind: str = "JPEG", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind, **options)
    return file.getvalue()


FILES = {
    "small, half the chroma": lambda: synthetic(),
    "large, upright, all of the chroma": lambda: synthetic(400, 300, 1, quality=95, subsampling=0),
    "coarse, progressive": lambda: synthetic(211, 333, 2, quality=40, progressive=True),
}
