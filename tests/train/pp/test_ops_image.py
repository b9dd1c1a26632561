"""Image ops against PIL and NumPy, on JPEGs of several kinds."""

from __future__ import annotations

import io

import numpy as np
import photos
import pytest
from PIL import Image

from big_vision_dual.train import pp
from big_vision_dual.train.pp import ops_image
from big_vision_dual.train.pp.quiet_tf import tf

GRID = np.stack(np.broadcast_arrays(*np.ogrid[:60, :80], 0), axis=-1).astype(np.uint8)  # pixel (y, x) holds y, x, 0


def run(string, image, seed=(0, 1)):
    return pp.get_preprocess_fn(string)({"image": tf.constant(image)}, tf.constant(seed, tf.int64))["image"].numpy()


def run_many(string, image, count):
    """The results for `count` seeds."""
    function = pp.get_preprocess_fn(string)
    dataset = tf.data.Dataset.range(count).map(lambda i: function({"image": image}, tf.stack([tf.int64.min, i])))
    return [example["image"] for example in dataset.as_numpy_iterator()]


def test_decode_agrees_with_pil(jpeg):
    reference = np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")).astype(int)
    precise = run("decode(precise=True)", jpeg)
    # Both use libjpeg's accurate inverse DCT; measured: equal.
    np.testing.assert_array_equal(precise, reference)
    # The fast one; measured: 1.0 to 1.7 grey levels on average.
    assert 0 < np.abs(run("decode", jpeg) - reference).mean() < 2.5


def test_decode_of_png_and_one_channel():
    np.testing.assert_array_equal(run("decode", photos.encode(GRID, "PNG")), GRID)
    assert run("decode(channels=1)", photos.encode(GRID, "PNG")).shape == (60, 80, 1)


def test_antialiased_resize_agrees_with_pil(photo):
    shrunk = run('resize((37, 53), method="bilinear", antialias=True)', photo).astype(int)
    reference = np.asarray(Image.fromarray(photo).resize((53, 37), Image.Resampling.BILINEAR)).astype(int)
    # We truncate, as Big Vision does, PIL rounds: one grey level; measured: at most 1.
    assert np.abs(shrunk - reference).max() <= 1


def test_plain_bilinear_resize_samples_at_pixel_centres(photo):
    """Without antialiasing: the four nearest pixels, weighted, whatever the scale."""
    size = (37, 53)
    y, x = (
        np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        for new, old in zip(size, photo.shape, strict=False)
    )
    low_y, low_x = np.floor(y).astype(int), np.floor(x).astype(int)
    high_y, high_x = (np.minimum(low + 1, old - 1) for low, old in zip((low_y, low_x), photo.shape, strict=False))
    part_y, part_x = (y - low_y)[:, None, None], (x - low_x)[None, :, None]
    pixels = photo.astype(float)
    top = pixels[low_y][:, low_x] * (1 - part_x) + pixels[low_y][:, high_x] * part_x
    bottom = pixels[high_y][:, low_x] * (1 - part_x) + pixels[high_y][:, high_x] * part_x
    reference = top * (1 - part_y) + bottom * part_y
    # Truncation takes up to one level off; float32 positions another thousandth.
    difference = reference - run("resize((37, 53))", photo)
    assert difference.min() > -0.01
    assert difference.max() < 1.01


def test_area_resize_is_the_mean_over_boxes(photo):
    even = photo[: photo.shape[0] // 4 * 4, : photo.shape[1] // 4 * 4].astype(np.float32)
    height, width = even.shape[0] // 4, even.shape[1] // 4
    boxes = even.reshape(height, 4, width, 4, 3).mean((1, 3))
    np.testing.assert_allclose(
        run(f'resize(({height}, {width}), method="area")', even), boxes, atol=1e-3
    )  # float32 sums


@pytest.mark.parametrize(("op", "shape"), [("resize_small(45)", (45, 60)), ("resize_long(45)", (34, 45))])
def test_resizing_one_side_keeps_the_aspect_ratio(op, shape):
    assert run(op, GRID).shape == (*shape, 3)
    assert run(op, GRID.transpose(1, 0, 2)).shape == (*shape[::-1], 3)
    np.testing.assert_array_equal(run(op, GRID), run(f'resize({shape}, method="area")', GRID))


def test_central_crop():
    np.testing.assert_array_equal(run("central_crop((21, 40))", GRID), GRID[19:40, 20:60])
    with pytest.raises(
        pp.PreprocessError,
        match=r"'central_crop\(61\)' failed: .* the crop of 61 x 61 .* resize it before",
    ):
        run("central_crop(61)", GRID)


def is_window(crop):
    return np.array_equal(crop, crop[0, 0] + GRID[: crop.shape[0], : crop.shape[1]])


def test_random_crop_is_a_window_anywhere():
    crops = run_many("random_crop((57, 78))", GRID, 600)
    assert all(crop.shape == (57, 78, 3) and is_window(crop) for crop in crops)
    counts = np.unique([tuple(crop[0, 0, :2]) for crop in crops], axis=0, return_counts=True)[1]
    assert len(counts) == 4 * 3
    assert counts.min() > 50 - 4 * 7  # each of 12 places with mean 50, standard deviation 7
    assert counts.max() < 50 + 4 * 7


def test_flip_lr_mirrors_half():
    images = run_many("flip_lr", GRID, 400)
    flipped = sum(np.array_equal(image, GRID[:, ::-1]) for image in images)
    assert 160 < flipped < 240  # binomial, standard deviation 10
    assert sum(np.array_equal(image, GRID) for image in images) == 400 - flipped


def test_inception_crop_keeps_area_and_aspect_ratio():
    crops = run_many("inception_crop(area_min=20, area_max=60, ratio_min=0.75, ratio_max=1.33)", GRID, 500)
    assert all(is_window(crop) for crop in crops)
    height, width = np.array([crop.shape[:2] for crop in crops]).T
    area, ratio = height * width / (60 * 80), width / height
    # Sides are whole pixels: half a pixel of at least 26 is 2 %; both ranges are used to their ends.
    assert 0.2 * 0.96 < area.min() < 0.24
    assert 0.5 < area.max() < 0.6 * 1.04
    assert 0.75 * 0.96 < ratio.min() < 0.8
    assert 1.25 < ratio.max() < 1.33 * 1.04
    assert len({tuple(crop[0, 0]) for crop in crops}) > 200


@pytest.mark.parametrize("precise", [False, True])
def test_decoding_only_the_crop_changes_nothing(jpeg, precise):
    for number in range(5):
        seed = tf.constant([3, number], tf.int64)
        part = ops_image.decode_jpeg_and_inception_crop(area_min=10, precise=precise)(jpeg, seed).numpy()
        pixels = tf.image.decode_jpeg(jpeg, channels=3, dct_method="INTEGER_ACCURATE" if precise else "")
        whole = ops_image.inception_crop(area_min=10)(pixels, seed).numpy()
        np.testing.assert_array_equal(part[:, 1:-1], whole[:, 1:-1])
        # Halved chroma is interpolated across the crop's left and right edge; measured: up to 8 grey levels there.
        assert np.abs(part.astype(int) - whole).max() <= 16


@pytest.mark.parametrize(("size", "scale"), [(20, 4), (40, 2), ((20, 60), 2), (90, 1)])
def test_a_reduced_crop_is_the_same_box_of_the_smaller_image(size, scale):
    """Of 150 x 200 pixels and boxes of at least 80 %: about 134 x 179."""
    jpeg, area = photos.synthetic(quality=95), {"area_min": 80, "ratio_min": 1.3, "ratio_max": 1.34}
    for number in range(3):
        seed = tf.constant([3, number], tf.int64)
        box = ops_image._inception_box(tf.constant((150, 200, 3)), seed, (80, 100), (1.3, 1.34)).numpy()
        y, x, height, width = box // scale
        smaller = tf.image.decode_jpeg(jpeg, channels=3, ratio=scale)[y : y + height, x : x + width]
        want = ops_image.resize(size)(smaller).numpy().astype(int)
        got = ops_image.decode_jpeg_and_inception_crop(size, reduced=True, **area)(jpeg, seed).numpy()
        assert got.shape == want.shape
        assert np.abs(got[:, 1:-1] - want[:, 1:-1]).max() <= 8  # chroma at the edges of what is decoded
        exact = ops_image.decode_jpeg_and_inception_crop(size, antialias=True, **area)(jpeg, seed).numpy().astype(int)
        assert np.abs(got - exact).mean() < 12  # a box of a quarter is rounded by up to 3 pixels


def test_a_reduced_crop_needs_a_size():
    with pytest.raises(ValueError, match="reduced=True needs a size"):
        ops_image.decode_jpeg_and_inception_crop(reduced=True)


def test_a_png_among_jpegs_is_cropped_too():
    for number in range(5):
        seed = tf.constant([3, number], tf.int64)
        part = ops_image.decode_jpeg_and_inception_crop(area_min=10)(photos.encode(GRID, "PNG"), seed)
        np.testing.assert_array_equal(part, ops_image.inception_crop(area_min=10)(GRID, seed))


@pytest.mark.parametrize(("op", "shape"), [("resize_long(16)", (1, 16)), ("resize_small(2)", (2, 2400))])
def test_a_side_is_never_resized_to_nothing(op, shape):
    assert run(op, np.full((1, 1200, 3), 7, np.uint8)).shape == (*shape, 3)


def test_an_unreadable_image_names_the_op():
    with pytest.raises(pp.PreprocessError, match=r"'decode\(precise=True\)' failed: .*Invalid JPEG"):
        run("decode(precise=True)", photos.synthetic()[:300])


def test_crop_and_resize_are_one_op(jpeg):
    seed, settings = tf.constant([3, 1], tf.int64), {"area_min": 10, "method": "bicubic", "antialias": True}
    crop = ops_image.decode_jpeg_and_inception_crop(area_min=10)(jpeg, seed)
    want = ops_image.resize((24, 30), "bicubic", antialias=True)(crop)
    np.testing.assert_array_equal(ops_image.decode_jpeg_and_inception_crop((24, 30), **settings)(jpeg, seed), want)


def test_value_range(photo):
    np.testing.assert_allclose(run("value_range(-1, 1)", photo), photo / 127.5 - 1, atol=1e-6)  # float32 rounding
    np.testing.assert_allclose(run("value_range(0, 2, 0, 51)", photo), photo / 25.5, atol=1e-5)
    clipped = run("value_range(0, 2, 0, 51, clip_values=True)", photo)
    np.testing.assert_allclose(clipped, np.minimum(photo / 25.5, 2), atol=1e-6)
    assert clipped.dtype == np.float32


def test_vgg_value_range(photo):
    want = (photo / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(run("vgg_value_range", photo), want, atol=1e-5)  # float32 rounding of values up to 3
