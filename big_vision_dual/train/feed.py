"""Batches on the devices, from step to step: drawn there from arrays, or sent there from the hosts."""

from __future__ import annotations

import collections
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from big_vision_dual.train.data import Source
from big_vision_dual.train.data.augment import Augment, augmented, scaled
from big_vision_dual.train.data.drawn import DrawnSource
from big_vision_dual.train.step import Batch, StepFns

_SENT_AHEAD = 2  # batches on their way to the devices while a step runs


def batches(source: Source, fns: StepFns, start_step: int, *, loss: str = "softmax_xent") -> Iterator[Batch]:
    """The global batches start_step, start_step + 1, ... as `fns.train` takes them.

    loss: as `losses.get` takes it; without a label an example is refused, but for 'sigmoid_xent'.
    """
    if isinstance(source, DrawnSource):
        return _drawn(source, fns, start_step)
    given: Any = source
    augment = getattr(given, "augment", None)
    sent = _sent(given.batches(start_step), fns, labelled=loss != "sigmoid_xent", raw=augment is not None)
    return sent if augment is None else _augmented(sent, augment, given.seed, fns, start_step)


def _drawn(source: DrawnSource, fns: StepFns, step: int) -> Iterator[Batch]:
    of_batch = {key: shape.sharding for key, shape in fns.batch.items()}
    whole = NamedSharding(fns.mesh, P())
    given = jax.eval_shape(source.batch, jax.eval_shape(source.on_device), step)
    if _shapes(given) != _shapes(fns.batch):
        raise ValueError(
            f"config.input gives {_shapes(given)}, but config.input_shape and num_classes say {_shapes(fns.batch)}; "
            "for text set config.input_shape to (config.input.data.length,)."
        )
    arrays = jax.jit(lambda: source.on_device(), out_shardings=whole)()
    draw = jax.jit(source.batch, in_shardings=(whole, whole), out_shardings=of_batch)
    while True:
        yield draw(arrays, np.int32(step))
        step += 1


def _shapes(batch: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {key: leaf.shape for key, leaf in batch.items()}


def _augmented(sent: Iterator[Batch], augment: Augment, seed: int, fns: StepFns, step: int) -> Iterator[Batch]:
    """Images augmented as raw pixels on the devices, then scaled to [-1, 1]."""
    images = fns.batch["image"].sharding
    whole = NamedSharding(fns.mesh, P())
    apply = jax.jit(
        lambda raw, step: scaled(augmented(augment, raw, seed, step)),
        in_shardings=(images, whole),
        out_shardings=images,
    )
    for number, batch in enumerate(sent, step):
        yield {**batch, "image": apply(batch["image"], np.int32(number))}


def _sent(
    host_batches: Iterator[Mapping[str, np.ndarray]], fns: StepFns, *, labelled: bool, raw: bool = False
) -> Iterator[Batch]:
    """raw: images stay as they are, for the devices to augment."""
    sent: collections.deque[Batch] = collections.deque()
    for host_batch in host_batches:
        given = as_model_input(host_batch, fns)
        if raw:
            given["image"] = _raw(host_batch["image"])
        if labelled and "labels" in given:
            _check_labelled(given["labels"])
        sent.append(to_devices(given, fns.batch))
        if len(sent) > _SENT_AHEAD:
            yield sent.popleft()


def as_model_input(batch: Mapping[str, Any], fns: StepFns) -> dict[str, np.ndarray]:
    """{'image', 'labels'} float32 of a host's batch; class indices in 'label' become one-hot 'labels'."""
    batch = dict(batch)
    if "labels" not in batch and "label" in batch:
        batch["labels"] = _one_hot(batch["label"], fns.batch["labels"].shape[1])
    missing = fns.batch.keys() - batch.keys()
    if missing:
        raise ValueError(
            f"config.input.pp gives {sorted(batch)}, without {sorted(missing)}; end it with "
            """onehot(NUM_CLASSES, key="label", key_result="labels")|keep("image", "labels")."""
        )
    wrong = {key: batch[key].shape[1:] for key, shape in fns.batch.items() if batch[key].shape[1:] != shape.shape[1:]}
    if wrong:
        expected = {key: fns.batch[key].shape[1:] for key in wrong}
        raise ValueError(
            f"config.input gives {wrong} per example, but config.input_shape and num_classes say {expected}; "
            "change the sizes in config.input.pp, or those."
        )
    return {key: np.asarray(batch[key], np.float32) for key in fns.batch}


def _raw(images: np.ndarray) -> np.ndarray:
    if images.dtype != np.uint8:
        raise ValueError(
            f"config.input.augment is done on raw pixels, and config.input.pp gives {images.dtype} images; leave "
            "value_range out of it, which the devices do after augmentation."
        )
    return images


def _check_labelled(labels_BxC: np.ndarray) -> None:
    """Raises ValueError for rows of zeros: their cross-entropy is 0 whatever the model says."""
    empty = int((labels_BxC.sum(-1) == 0).sum())
    if empty:
        raise ValueError(
            f"{empty} of {len(labels_BxC)} examples of a batch have no label, from which config.loss='softmax_xent' "
            "learns nothing; leave them out, or train with 'sigmoid_xent'."
        )


def _one_hot(label_B: np.ndarray, num_classes: int) -> np.ndarray:
    outside = np.unique(label_B[(label_B < 0) | (label_B >= num_classes)])
    if len(outside):
        raise ValueError(
            f"config.input gives labels {outside.tolist()}, and config.num_classes={num_classes} has 0 to "
            f"{num_classes - 1}; raise it, or leave unlabelled examples out."
        )
    return np.eye(num_classes, dtype=np.float32)[label_B]


def to_devices(batch: Mapping[str, np.ndarray], like: Batch) -> Batch:
    """This host's share of each array -> global arrays with the shapes and shardings of `like`."""
    return {
        key: jax.make_array_from_process_local_data(like[key].sharding, value, like[key].shape)
        for key, value in batch.items()
    }
