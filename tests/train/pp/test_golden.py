"""Parity with Big Vision's preprocessing on three ImageNet images (../shared/golden/big_vision/bv_pp.npz)."""

from __future__ import annotations

import json
import pathlib

import goldens
import numpy as np
import pytest

from big_vision_dual.train import data

TFDS = pathlib.Path(__file__).parents[3] / "shared" / "data" / "tfds"
TOLERANCE = 1e-3  # of the value range, as the golden's README states; measured: 1e-7


def test_op_strings_reproduce_big_vision():
    golden = np.load(goldens.path("big_vision/bv_pp.npz"))
    if not TFDS.is_dir():
        pytest.skip(f"the images of the golden values are not in {TFDS}")
    images = {"name": "imagenet2012", "split": "validation[:3]", "data_dir": str(TFDS)}
    for j, ops in enumerate(json.loads(str(golden["ops"]))):
        batches = data.evaluation(images, ops, batch_size=1)
        for i, batch in enumerate(batches):
            want = golden[f"out/{i}/{j}"]
            got = batch["image"][0]
            assert got.shape == want.shape
            assert got.dtype == want.dtype
            span = 255 if want.dtype == np.uint8 else 2
            assert np.abs(got.astype(float) - want.astype(float)).max() <= TOLERANCE * span, (ops, i)
