"""Big Vision's preprocessing: its values on three photographs, and what the same ops give on a picture made here.

The photographs are ImageNet's and not ours to publish: that test runs where ../shared lies beside the clone. The
other runs everywhere, on values that the ops gave when the first one passed.
"""

from __future__ import annotations

import json
import pathlib

import goldens
import numpy as np
import photos
import pytest

from big_vision_dual.train import data, pp
from big_vision_dual.train.pp.quiet_tf import tf

SHARED = pathlib.Path(__file__).parents[4] / "shared"
TOLERANCE = 1e-3  # of the value range, as goldens/README.md states; measured: 1e-7


def assert_close(got, want, what):
    assert (got.shape, got.dtype) == (want.shape, want.dtype), what
    span = 255 if want.dtype == np.uint8 else 2
    assert np.abs(got.astype(float) - want.astype(float)).max() <= TOLERANCE * span, what


def test_op_strings_give_what_they_gave_when_they_were_big_visions():
    golden = np.load(goldens.path("big_vision/pp_synthetic.npz"))
    example = {"image": tf.constant(photos.synthetic()), "label": tf.constant(3)}
    for j, ops in enumerate(json.loads(str(golden["ops"]))):
        got = pp.get_preprocess_fn(ops)(example, tf.constant([0, 0], tf.int64))["image"].numpy()
        assert_close(got, golden[f"out/{j}"], ops)


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"ImageNet's photographs are not in {SHARED}")
def test_op_strings_reproduce_big_vision():
    golden = np.load(SHARED / "golden" / "big_vision" / "bv_pp.npz")
    images = {"name": "imagenet2012", "split": "validation[:3]", "data_dir": str(SHARED / "data" / "tfds")}
    for j, ops in enumerate(json.loads(str(golden["ops"]))):
        for i, batch in enumerate(data.evaluation(images, ops, batch_size=1)):
            assert_close(batch["image"][0], golden[f"out/{i}/{j}"], (ops, i))
