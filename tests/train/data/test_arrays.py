"""Arrays on the device: order, augmentation, hosts, files and errors; all without TensorFlow."""

from __future__ import annotations

import functools
import itertools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_dual.train import data
from big_vision_dual.train.data import arrays
from big_vision_dual.train.data.augment import augment_fn

AUGMENT = "shift(1)|flip_lr"  # leaves the middle of a uniform image as it is


@pytest.fixture(scope="module")
def npz(tmp_path_factory):
    """12 training and 5 test images of 6 x 8 x 3 pixels; image i is filled with 10 i."""
    path = tmp_path_factory.mktemp("npz") / "tens.npz"
    images = np.broadcast_to(np.arange(12, dtype=np.uint8)[:, None, None, None] * 10, (12, 6, 8, 3))
    np.savez(path, train_image=images, train_label=np.arange(12), test_image=images[:5], test_label=np.arange(5))
    return f"array:{path}"


def source(name, batch_size=5, *, seed=0, process_index=0, process_count=1, **settings):
    config = {"data": {"name": name, "split": "train"}, "batch_size": batch_size, **settings}
    return data.make(config, seed=seed, process_index=process_index, process_count=process_count)


def take(batches, count):
    return list(itertools.islice(batches, count))


def assert_equal(batches, others):
    for batch, other in zip(batches, others, strict=True):
        assert batch.keys() == other.keys()
        for name, value in batch.items():
            np.testing.assert_array_equal(value, other[name])


def test_mnist5k_is_split_evenly_over_digits():
    train, test = (arrays.load("mnist5k", split) for split in ("train", "test"))
    assert train.images.shape == (4000, 28, 28, 1)
    assert test.images.shape == (1000, 28, 28, 1)
    assert train.images.dtype == np.uint8
    np.testing.assert_array_equal(np.bincount(train.labels), [400] * 10)
    np.testing.assert_array_equal(np.bincount(test.labels), [100] * 10)
    seen = {image.tobytes() for image in train.images}
    assert not any(image.tobytes() in seen for image in test.images)


@pytest.mark.parametrize(("num_examples", "batch_size"), [(12, 5), (5, 12)])
def test_each_epoch_holds_every_example_once_in_an_order_of_its_own(num_examples, batch_size):
    draw = jax.jit(lambda step: arrays.batch_indices(step, seed=1, num_examples=num_examples, batch_size=batch_size))
    steps = -(-4 * num_examples // batch_size)
    stream = np.concatenate([draw(step) for step in range(steps)])[: 4 * num_examples]
    epochs = stream.reshape(4, num_examples)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(num_examples), (4, 1)))
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 4


def test_indices_vmap_over_steps_and_seeds_and_reach_far():
    far = 2_000_000  # step * batch_size = 5e9 does not fit int32
    one = functools.partial(arrays.batch_indices, num_examples=4000, batch_size=2500)
    draw = jax.jit(jax.vmap(lambda step, seed: one(step, seed=seed)))
    both = draw(np.array([3, far]), np.array([7, 8]))
    np.testing.assert_array_equal(both[0], draw(np.array([5, 3]), np.array([7, 7]))[1])
    np.testing.assert_array_equal(both[1], jax.jit(one)(far, seed=8))
    assert len(set(both[1].tolist())) == 2500  # position 5e9 is the start of an epoch


def test_batches_are_ready_for_the_model(npz):
    batch = next(source(npz, augment=AUGMENT).batches())
    assert batch["image"].shape == (5, 6, 8, 3)
    assert batch["labels"].shape == (5, 12)
    labels = batch["labels"].argmax(-1)
    np.testing.assert_allclose(batch["image"][:, 3, 4, 0], labels * 10 / 127.5 - 1, atol=1e-6)  # float32 rounding


def test_resume_and_seed(npz):
    full = take(source(npz, augment=AUGMENT).batches(), 9)
    assert_equal(full[4:], take(source(npz, augment=AUGMENT).batches(4), 5))
    other = take(source(npz, seed=1, augment=AUGMENT).batches(), 9)
    assert any((batch["labels"] != another["labels"]).any() for batch, another in zip(full, other, strict=True))


def test_hosts_together_hold_the_batches_of_one(npz):
    alone = take(source(npz, augment=AUGMENT).batches(), 4)
    hosts = [take(source(npz, augment=AUGMENT, process_index=h, process_count=5).batches(), 4) for h in range(5)]
    together = [
        {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        for parts in zip(*hosts, strict=True)
    ]
    assert_equal(alone, together)


@pytest.mark.parametrize("pad", ["zero", "edge"])
def test_shift_moves_by_whole_pixels_in_all_directions(pad):
    images = np.random.default_rng(0).integers(1, 256, (300, 5, 7, 2), dtype=np.uint8)
    moved = np.asarray(augment_fn(f"shift(1, pad={pad!r})")(jax.random.key(0), jnp.asarray(images)))
    mode = "constant" if pad == "zero" else "edge"
    padded = np.pad(images, [(0, 0), (1, 1), (1, 1), (0, 0)], mode=mode)
    seen = set()
    for image, wide in zip(moved, padded, strict=True):
        fits = [(y, x) for y in range(3) for x in range(3) if (image == wide[y : y + 5, x : x + 7]).all()]
        assert len(fits) == 1
        seen.add(fits[0])
    assert len(seen) == 9


def test_flip_mirrors_about_half_of_the_images():
    images = np.random.default_rng(0).random((400, 3, 5, 1), np.float32)
    moved = np.asarray(augment_fn("flip_lr")(jax.random.key(0), jnp.asarray(images)))
    flipped = (moved == images[:, :, ::-1]).all((1, 2, 3))
    assert ((moved == images).all((1, 2, 3)) ^ flipped).all()
    assert 160 < flipped.sum() < 240  # binomial, standard deviation 10


def test_evaluation_covers_the_split_once(npz):
    for hosts in (1, 2, 3):
        all_batches = [
            list(data.evaluation({"name": npz, "split": "test"}, "", 6, process_index=h, process_count=hosts))
            for h in range(hosts)
        ]
        assert len({len(batches) for batches in all_batches}) == 1
        labels = [
            label
            for batches in all_batches
            for batch in batches
            for label, mask in zip(batch["labels"].argmax(-1), batch["_mask"], strict=True)
            if mask
        ]
        assert sorted(labels) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"data": {"name": "array:nowhere.npz"}}, r"no file .*nowhere.npz; make it with numpy.savez"),
        ({"data": {"name": "mnist5k", "split": "val"}}, r"no split 'val'; its splits: train, test"),
        ({"data": {"name": "mnist5k"}, "pp": "flip_lr"}, r"pp has no meaning for the arrays 'mnist5k'"),
        ({"data": {"name": "mnist5k"}, "augment": "shear(2)"}, r"unknown augmentation 'shear\(2\)'.*shift, flip_lr"),
        ({"data": {"name": "mnist5k"}, "augment": "shift(0)"}, r"pixels >= 1"),
        ({"data": {"name": "mnist5k"}, "augment": "shift(by=1)"}, r"'shift\(by=1\)': .*unexpected keyword"),
        ({"data": {"name": "mnist5k"}, "shufle_buffer_size": 3}, r"unknown settings \['shufle_buffer_size'\]"),
    ],
)
def test_errors(config, message):
    with pytest.raises(data.DataError, match=message):
        data.make({"batch_size": 4, **config}, seed=0)


def test_batch_size_must_divide():
    with pytest.raises(
        data.DataError, match="batch_size 10 does not divide evenly over 4 processes; nearest possible: 8"
    ):
        source("mnist5k", 10, process_count=4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"train_label": np.zeros(4)}, r"labels float64 \(4,\); possible: .* integer labels"),
        ({"train_label": np.array([0, -1, 1, 1])}, r"labels int64 from -1 to 1 over its splits; possible: integers"),
        ({"test_label": np.array([7, -1])}, "from -1 to 7"),
        ({"test_label": np.array([2**40])}, "to 1099511627776"),
        ({"train_image": np.zeros((0, 3, 3)), "train_label": np.zeros(0, int)}, "train has no examples"),
        ({"train_image": np.full((4, 3, 3), np.nan)}, "images with NaN or infinite entries"),
    ],
)
def test_unusable_arrays(tmp_path, given, message):
    good = {"train_image": np.zeros((4, 3, 3)), "train_label": np.zeros(4, int)}
    np.savez(tmp_path / "x.npz", **(good | given))
    with pytest.raises(data.DataError, match=rf"x.npz.*{message}"):
        arrays.load(f"array:{tmp_path / 'x.npz'}", "train")


def test_no_tensorflow_is_imported(npz):
    program = (
        "import sys; from big_vision_dual import data; "
        f"data.make(dict(data=dict(name={npz!r}), batch_size=4), seed=0); "
        "sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_parts_of_a_split_are_disjoint_and_together_the_whole_in_an_order_that_is_always_the_same(npz):
    whole = arrays.load(npz, "train")
    parts = [arrays.load(npz, f"train[{part}]") for part in (":50%", "50%:75%", "75%:")]
    assert [len(part.labels) for part in parts] == [6, 3, 3]
    labels = np.concatenate([part.labels for part in parts])
    assert sorted(labels) == sorted(whole.labels)
    assert list(labels) != sorted(labels), "classes mixed"
    for part in parts:
        assert (part.images[:, 0, 0, 0] == 10 * part.labels).all()
        assert part.num_classes == whole.num_classes
    assert (arrays.load(npz, "train[:50%]").labels == parts[0].labels).all()
    with pytest.raises(data.DataError, match=r"'train\[60%:40%\]' holds nothing; possible: train\[A%:B%\]"):
        arrays.load(npz, "train[60%:40%]")
