"""What the hosts' batches must be before they go to the devices."""

from __future__ import annotations

import types
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from big_vision_dual.train import data, feed


@pytest.fixture
def fns() -> Any:
    sharding = NamedSharding(Mesh(np.array(jax.devices()[:1]), ("data",)), P())
    shapes = {"image": (4, 2, 2, 3), "labels": (4, 5)}
    batch = {k: jax.ShapeDtypeStruct(s, np.float32, sharding=sharding) for k, s in shapes.items()}
    return types.SimpleNamespace(batch=batch, mesh=sharding.mesh)


def source(**entries) -> Any:
    given = {"image": np.zeros((4, 2, 2, 3), np.float32), **entries}
    return types.SimpleNamespace(batches=lambda _: iter([given] * 9), num_classes=None)


def test_label_indices_become_one_hot(fns):
    batch = next(feed.batches(source(label=np.array([4, 0, 1, 1])), fns, 0))
    np.testing.assert_array_equal(batch["labels"], np.eye(5)[[4, 0, 1, 1]])


@pytest.mark.parametrize("label", [-1, 5])
def test_a_label_outside_the_classes_is_refused(fns, label):
    with pytest.raises(ValueError, match=rf"labels \[{label}\], and config.num_classes=5 has 0 to 4"):
        next(feed.batches(source(label=np.array([0, label, 1, 1])), fns, 0))


def test_a_row_without_a_label_is_refused_but_under_the_sigmoid(fns):
    labels = np.eye(5, dtype=np.float32)[[0, 1, 2, 3]] * [[1], [1], [0], [1]]
    with pytest.raises(ValueError, match="1 of 4 examples of a batch have no label"):
        next(feed.batches(source(labels=labels), fns, 0))
    batch = next(feed.batches(source(labels=labels), fns, 0, loss="sigmoid_xent"))
    np.testing.assert_array_equal(batch["labels"], labels)


def test_images_are_augmented_on_the_devices_as_raw_pixels_and_then_scaled(fns):
    drawn = []

    def augment(key, images):
        assert images.dtype == np.uint8
        drawn.append(jax.random.key_data(key))
        return images + jax.random.randint(key, images.shape, 0, 100).astype(np.uint8)

    images = np.arange(48, dtype=np.uint8).reshape(4, 2, 2, 3)
    given = source(image=images, label=np.array([0, 1, 2, 3]))
    given.augment, given.seed = augment, 3
    batches = feed.batches(given, fns, 5)
    first, second = (np.asarray(next(batches)["image"]) for _ in range(2))
    assert len(drawn) == 1  # compiled once
    assert first.dtype == np.float32
    added = np.round((first + 1) * 127.5) - images
    assert (added.min(), added.max()) >= (0, 50)
    assert np.any(first != second)
    np.testing.assert_array_equal(next(feed.batches(given, fns, 6))["image"], second)  # of the step alone
    given = source(labels=np.eye(4, 5))
    given.augment, given.seed = augment, 3
    with pytest.raises(ValueError, match="pp gives float32 images; leave value_range out"):
        next(feed.batches(given, fns, 0))


def test_the_data_sets_classes_are_compared_with_the_models(caplog):
    ten: Any = types.SimpleNamespace(num_classes=10)
    with pytest.raises(data.DataError, match=r"has 10 classes, config.num_classes is 5; set that to 10"):
        data.check_classes(ten, 5)
    data.check_classes(ten, 10)
    assert not caplog.text
    data.check_classes(ten, 20)
    assert "config.num_classes is 20, and config.input.data has 10 classes only" in caplog.text
