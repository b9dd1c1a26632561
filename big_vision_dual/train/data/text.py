"""Text as bytes, kept on the device: `dict(name='bytes', path=FILE, length=L)`. No TensorFlow at import.

Instead of a file, path may be 'tfds:NAME', a text set of TFDS: the documents of its split `tfds_split` ('train') by
their feature `feature` ('text'), under `data_dir`. The last share `validation` of the text is held out. A training
window begins anywhere, drawn by (seed, step): two windows may overlap, and an epoch is as many as the text has lengths.
Held-out windows follow each other, so that every held-out byte but the first is predicted once; what does not fill a
window at the end is left out.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from big_vision_dual.train.data.base import OF_STREAMS, Batch, DataError, host_range
from big_vision_dual.train.data.drawn import DrawnSource
from big_vision_dual.train.data.padded import PaddedBatches

NAME, VOCABULARY = "bytes", 256
_TFDS = "tfds:"
_KEYS = ("name", "path", "length", "split", "validation")
_TFDS_KEYS = ("tfds_split", "feature", "data_dir")
_SPLITS = ("train", "validation")
_WINDOWS = 2  # folded into the seed, as `data.arrays` does for order and augmentation


def load(given: Mapping[str, Any]) -> np.ndarray:
    """The bytes of a split, uint8 (N,).

    given: path; length, predictions a window; split 'train' | 'validation'; validation, the share held out (.1); for a
      TFDS text set also tfds_split, feature and data_dir.
    Raises `DataError` for a missing or empty text, or a split shorter than a window of length + 1 bytes.
    """
    known = _KEYS + (_TFDS_KEYS if str(given.get("path")).startswith(_TFDS) else ())
    if set(given) - set(known) or not given.get("path") or not given.get("length"):
        raise DataError(
            f"bytes have keys {sorted(given)}; possible: {', '.join(known)}, of which path and length are needed."
        )
    share, split = given.get("validation", 0.1), given.get("split", "train")
    if split not in _SPLITS or not 0 <= share < 1:
        raise DataError(f"bytes: split {split!r}, validation {share}; possible: {' or '.join(_SPLITS)}, a share < 1.")
    content = _read(given)
    edge = len(content) - round(share * len(content))
    part = content[:edge] if split == "train" else content[edge:]
    if len(part) <= given["length"]:
        raise DataError(
            f"{given['path']}: its {split} split has {len(part)} bytes, a window {given['length'] + 1}; give a longer "
            "text, a smaller length, or another share `validation`."
        )
    return part


def _read(given: Mapping[str, Any]) -> np.ndarray:
    name = given["path"]
    content = _tfds(name.removeprefix(_TFDS), given) if name.startswith(_TFDS) else _file(pathlib.Path(name))
    if not len(content):
        raise DataError(f"{name} is empty; give a file with text.")
    return content


def _file(path: pathlib.Path) -> np.ndarray:
    path = path.expanduser()
    if not path.is_file():
        raise DataError(
            f"no file {path.absolute()}; set config.input.data.path to a text file, in any encoding, or to 'tfds:NAME'."
        )
    return np.fromfile(path, np.uint8)


def _tfds(name: str, given: Mapping[str, Any]) -> np.ndarray:
    from big_vision_dual.train.data import tfds_text

    where = {"name": name, "split": given.get("tfds_split", "train"), "data_dir": given.get("data_dir")}
    return tfds_text.read(where, given.get("feature", "text"))


@functools.partial(jax.jit, static_argnames=("batch_size", "length"))
def _drawn(text: jax.Array, step: Any, seed: Any, *, batch_size: int, length: int) -> jax.Array:
    """Tokens (batch_size, length + 1), int32."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), _WINDOWS), step)
    start_B = jax.random.randint(key, (batch_size,), 0, len(text) - length)
    return text[start_B[:, None] + jnp.arange(length + 1)].astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class ByteSource(DrawnSource):
    """Training windows of a text; every host holds all of it."""

    text: np.ndarray
    length: int
    batch_size: int
    seed: int
    process_index: int = 0
    process_count: int = 1

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, seed: int, process_index: int, process_count: int) -> ByteSource:
        refused = [name for name in (*OF_STREAMS, "augment") if config.get(name)]
        if refused:
            raise DataError(f"config.input: {', '.join(refused)} has no meaning for bytes; leave it out.")
        data = config["data"]
        return cls(load(data), data["length"], config["batch_size"], seed, process_index, process_count)

    @property
    def num_examples(self) -> int:
        return (len(self.text) - 1) // self.length

    @property
    def num_classes(self) -> int:
        return VOCABULARY

    def on_device(self) -> dict[str, jax.Array]:
        """{text}, uint8."""
        return {"text": jnp.asarray(self.text)}

    def batch(self, arrays: Mapping[str, jax.Array], step: Any, seed: Any = None) -> dict[str, jax.Array]:
        """{tokens (batch, length + 1)}, int32."""
        seed = self.seed if seed is None else seed
        return {"tokens": _drawn(arrays["text"], step, seed, batch_size=self.batch_size, length=self.length)}


def windows(given: Mapping[str, Any]) -> np.ndarray:
    """The whole split as consecutive windows, int32 (N, length + 1), each beginning with the last byte of the one
    before."""
    text, length = load({"split": "validation", **given}), given["length"]
    starts = np.arange((len(text) - 1) // length) * length
    return text[starts[:, None] + np.arange(length + 1)].astype(np.int32)


def padded(given: Mapping[str, Any], size: int, process_index: int, process_count: int) -> PaddedBatches:
    """The evaluation batches {tokens} of a split, see `data.evaluation`."""
    tokens = windows(given)
    mine = host_range(len(tokens), process_index, process_count)

    def read() -> Iterator[Batch]:
        return ({"tokens": tokens[i : min(i + size, mine.stop)]} for i in range(mine.start, mine.stop, size))

    return PaddedBatches(len(tokens), size, process_index, process_count, read, lambda: {"tokens": tokens[:0]})
