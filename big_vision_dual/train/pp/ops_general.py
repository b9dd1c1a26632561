"""Ops on any entry of an example, and on the example itself: labels, shapes, choosing entries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from big_vision_dual.train.pp.parse import PreprocessError
from big_vision_dual.train.pp.quiet_tf import Tensor, tf
from big_vision_dual.train.pp.registry import Example, register


def _require(example: Example, op: str, keys: Sequence[str]) -> None:
    missing = [key for key in keys if key not in example]
    if missing:
        raise PreprocessError(f"{op} needs {missing}, but at this point the example has {sorted(example)}.")


@register("onehot")
def onehot(
    depth: int,
    key: str = "labels",
    key_result: str | None = None,
    multi: bool = True,
    on: float = 1.0,
    off: float = 0.0,
) -> Callable[[Example], Example]:
    """Label indices -> float32 (depth,): `on` at each label of a vector of them, or of one, else `off`.

    With `multi=False` every label gets a row of its own: (n,) -> (n, depth). The result is written to
    `key_result`, by default over `key`. A label outside [0, depth) is an error at the example that has it; in a
    vector that becomes one row, -1 is padding.
    """
    if depth < 1:
        raise ValueError(f"depth is {depth}; possible: the number of classes, above 0.")

    def apply(example: Example) -> Example:
        _require(example, "onehot", [key])
        labels = tf.convert_to_tensor(example[key])
        lowest = -1 if multi and labels.shape.rank == 1 else 0
        possible = f"{key!r} has a label outside [0, {depth}), the classes of onehot({depth})"
        tf.debugging.assert_greater_equal(tf.cast(labels, tf.int64), tf.constant(lowest, tf.int64), possible)
        tf.debugging.assert_less(tf.cast(labels, tf.int64), tf.constant(depth, tf.int64), possible)
        rows = tf.one_hot(labels, depth, on_value=on, off_value=off)
        if multi and rows.shape.rank == 2:
            rows = (tf.reduce_max if on > off else tf.reduce_min)(rows, axis=0)
        return {**example, key_result or key: rows}

    return apply


@register("lookup", key="label")
def lookup(values: Sequence[int]) -> Callable[[Tensor], Tensor]:
    """Label index i -> values[i]: maps the classes of one data set to those of another."""
    table = tf.constant(values, tf.int64)
    return lambda index: tf.gather(table, index)


@register("keep")
def keep(*keys: str) -> Callable[[Example], Example]:
    """Keeps only the entries named."""

    def apply(example: Example) -> Example:
        _require(example, "keep", keys)
        return {key: example[key] for key in keys}

    return apply


@register("drop")
def drop(*keys: str) -> Callable[[Example], Example]:
    """Removes the entries named; one that is absent is no error, so that data sets can share a string."""
    return lambda example: {key: value for key, value in example.items() if key not in keys}


@register("copy")
def copy(inkey: str, outkey: str) -> Callable[[Example], Example]:
    """Copies an entry, for instance to make two views of one image."""

    def apply(example: Example) -> Example:
        _require(example, "copy", [inkey])
        return {**example, outkey: example[inkey]}

    return apply


@register("flatten")
def flatten() -> Callable[[Example], Example]:
    """Nested features -> one level, names joined by '/': {'a': {'b': x}} -> {'a/b': x}."""

    def walk(node: Any, prefix: str) -> Example:
        if not isinstance(node, dict):
            return {prefix: node}
        flat: Example = {}
        for key, value in node.items():
            flat |= walk(value, f"{prefix}/{key}" if prefix else key)
        return flat

    return lambda example: walk(example, "")


@register("cast", key="image")
def cast(dtype: str) -> Callable[[Tensor], Tensor]:
    """Changes the dtype, for instance to 'float32'; values are neither scaled nor clipped."""
    try:
        target = tf.as_dtype(dtype)
    except TypeError as error:
        raise ValueError(
            f"dtype is {dtype!r}; possible: a NumPy name such as 'float32', 'uint8', 'bfloat16'."
        ) from error
    return lambda value: tf.cast(value, target)


@register("reshape", key="image")
def reshape(new_shape: Sequence[int]) -> Callable[[Tensor], Tensor]:
    """Changes the shape, keeping the number of entries; -1 stands for what is left."""
    return lambda value: tf.reshape(value, new_shape)


@register("squeeze_last_dim", key="image")
def squeeze_last_dim() -> Callable[[Tensor], Tensor]:
    """(..., 1) -> (...), for instance for one-channel masks."""
    return lambda value: tf.squeeze(value, axis=-1)


@register("pad_to_shape", key="image")
def pad_to_shape(shape: Sequence[int | None], pad_value: float = 0, where: str = "after") -> Callable[[Tensor], Tensor]:
    """Pads with `pad_value` up to `shape`, None leaving an axis as it is, so that examples can be batched.

    where: 'after' the value, 'before' it, or on 'both' sides (an odd pixel goes after).
    """
    if where not in ("after", "before", "both"):
        raise ValueError(f"where is {where!r}; possible: 'after', 'before', 'both'.")

    def apply(value: Tensor) -> Tensor:
        target = [tf.shape(value)[axis] if size is None else size for axis, size in enumerate(shape)]
        missing = tf.stack(target) - tf.shape(value)
        before = {"after": tf.zeros_like(missing), "before": missing, "both": missing // 2}[where]
        padded = tf.pad(
            value, tf.stack([before, missing - before], axis=1), constant_values=tf.cast(pad_value, value.dtype)
        )
        return tf.ensure_shape(padded, [size or known for size, known in zip(shape, value.shape, strict=True)])

    return apply


@register("choice", key="image", random=True)
def choice(n: int | None = None) -> Callable[[Tensor, Tensor], Tensor]:
    """One entry along the first axis, or with `n` that many different ones in random order."""

    def apply(value: Tensor, seed: Tensor) -> Tensor:
        count = tf.shape(value)[0]
        if n is None:
            return value[tf.random.stateless_uniform([], seed, maxval=count, dtype=tf.int32)]
        order = tf.random.experimental.stateless_shuffle(tf.range(count), seed)
        return tf.gather(value, order[:n])

    return apply
