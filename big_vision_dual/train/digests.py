"""Checksums of what a checkpoint holds, and whether an error in reading one means that it is damaged."""

from __future__ import annotations

import hashlib
import json
import math
import re
from typing import Any

import jax
import jax.numpy as jnp

from big_vision_dual.core import trees

PyTree = Any
_OF_NOTES = "notes_digest"
_STATUS = re.compile(r"^([A-Z_]{5,}): ")
_BROKEN_DATA = {"DATA_LOSS", "NOT_FOUND", "OUT_OF_RANGE"}
"""Statuses of tensorstore that speak of the data. Others (UNAVAILABLE, ABORTED, EIO's UNKNOWN) speak of reading."""


class Damaged(ValueError):
    """What was read is not what was written."""


def is_damage(error: BaseException | None) -> bool:
    """Whether an error in reading a checkpoint that is there means a failed checksum, a missing file or a parse error.

    All else (EIO, a 503, no memory, too many open files, and what is not known here) is a failure of the reading.
    """
    chain = []
    while error is not None:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return not any(map(_of_the_reading, chain)) and any(map(_of_the_data, chain))


def _of_the_reading(error: BaseException) -> bool:
    status = _STATUS.match(str(error))
    missing = isinstance(error, FileNotFoundError | NotADirectoryError)
    return (isinstance(error, OSError | MemoryError | RuntimeError) and not missing) or bool(
        status and status[1] not in _BROKEN_DATA
    )


def _of_the_data(error: BaseException) -> bool:
    return isinstance(error, ValueError | KeyError | FileNotFoundError | NotADirectoryError)  # also JSON's and UTF-8's


def of_tree(tree: PyTree) -> dict[str, int]:
    """{path: checksum} of the leaves: the same however a leaf is sharded, other when bits flip or entries move.

    It is the sum modulo 2^32, over all entries, of a hash of the entry's bits and its index.
    """
    return _fetched(_hash_sums(tree))


def of_tree_before_0_2(tree: PyTree) -> dict[str, int]:
    """{path: sum of the bits modulo 2^32}, as older checkpoints have it; blind to entries that move."""
    return _fetched(_bit_sums(tree))


def signed(notes: dict[str, Any]) -> dict[str, Any]:
    """The notes with their digest among them."""
    return {**notes, _OF_NOTES: of_json(notes)}


def checked(notes: dict[str, Any]) -> dict[str, Any]:
    """The notes without their digest; raises Damaged where it does not fit. Older notes have none."""
    rest = {name: value for name, value in notes.items() if name != _OF_NOTES}
    if _OF_NOTES in notes and notes[_OF_NOTES] != of_json(rest):
        raise Damaged("its notes changed on disk")
    return rest


def of_json(value: Any) -> str:
    """SHA-256 of a JSON value, hexadecimal; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _fetched(sums: dict[str, jax.Array]) -> dict[str, int]:
    return {path: int(value) for path, value in jax.device_get(sums).items()}


@jax.jit
def _hash_sums(tree: PyTree) -> dict[str, jax.Array]:
    return {path: _hash_sum(_words(leaf)) for path, leaf in trees.flatten(tree).items()}


@jax.jit
def _bit_sums(tree: PyTree) -> dict[str, jax.Array]:
    return {path: jnp.sum(_words(leaf), dtype=jnp.uint32) for path, leaf in trees.flatten(tree).items()}


def _words(leaf: jax.Array) -> jax.Array:
    """The bits of each entry as uint32; entries of 8 bytes have a last axis of two."""
    if leaf.dtype == jnp.bool:
        return leaf.astype(jnp.uint32)
    size = leaf.dtype.itemsize
    unsigned = {1: jnp.uint8, 2: jnp.uint16}.get(size, jnp.uint32)
    return jax.lax.bitcast_convert_type(leaf, unsigned).astype(jnp.uint32)


def _hash_sum(words: jax.Array) -> jax.Array:
    strides = [math.prod(words.shape[axis + 1 :]) % 2**32 for axis in range(words.ndim)]
    index = jnp.zeros(words.shape, jnp.uint32)
    for axis, stride in enumerate(strides):
        index += jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis) * jnp.uint32(stride)
    return jnp.sum(_mixed(words ^ _mixed(index)), dtype=jnp.uint32)


def _mixed(words: jax.Array) -> jax.Array:
    """MurmurHash3's finalizer (A. Appleby, fmix32): a bijection of 32 bits in which each bit reaches all others."""
    words = (words ^ (words >> 16)) * jnp.uint32(0x85EBCA6B)
    words = (words ^ (words >> 13)) * jnp.uint32(0xC2B2AE35)
    return words ^ (words >> 16)
