"""Weights in the state-dict layout of the PyTorch project `mamba.py`, in and out. Torch is not needed.

Files are .npz or .safetensors. Torch keeps a linear layer as (out, in) and the convolution as (C, 1, K); Flax has
(in, out) and (K, 1, C): each kernel is a transpose.
"""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from big_vision_dual.core import files, trees
from big_vision_dual.models.weights import WeightsError

_KEYS = (  # torch pattern, Flax path; {} stands for a layer's number
    ("embedding.weight", "embedding/embedding"),
    ("mamba.layers.{}.norm.weight", "layers_{}/norm/scale"),
    ("mamba.layers.{}.mixer.in_proj.weight", "layers_{}/mixer/in_proj/kernel"),
    ("mamba.layers.{}.mixer.conv1d.weight", "layers_{}/mixer/conv/kernel"),
    ("mamba.layers.{}.mixer.conv1d.bias", "layers_{}/mixer/conv/bias"),
    ("mamba.layers.{}.mixer.x_proj.weight", "layers_{}/mixer/x_proj/kernel"),
    ("mamba.layers.{}.mixer.dt_proj.weight", "layers_{}/mixer/dt_proj/kernel"),
    ("mamba.layers.{}.mixer.dt_proj.bias", "layers_{}/mixer/dt_proj/bias"),
    ("mamba.layers.{}.mixer.dt_bias", "layers_{}/mixer/dt_bias"),
    ("mamba.layers.{}.mixer.A_log", "layers_{}/mixer/A_log"),
    ("mamba.layers.{}.mixer.D", "layers_{}/mixer/D"),
    ("mamba.layers.{}.mixer.norm.weight", "layers_{}/mixer/norm/scale"),
    ("mamba.layers.{}.mixer.out_proj.weight", "layers_{}/mixer/out_proj/kernel"),
    ("norm_f.weight", "norm_f/scale"),
    ("lm_head.weight", "head/kernel"),
)


def flax_path(key: str) -> str:
    """'mamba.layers.3.mixer.D' -> 'layers_3/mixer/D'. Raises `ValueError` for a key that mamba.py does not have."""
    return _rename(key, _KEYS, "state-dict key")


def torch_key(path: str) -> str:
    """The inverse of `flax_path`."""
    return _rename(path, [(ours, theirs) for theirs, ours in _KEYS], "parameter path")


def from_torch(state: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """{torch key: array} -> Flax parameters, float32."""
    paths = {key: flax_path(key) for key in state}
    return trees.unflatten({path: _swapped(path, np.asarray(state[key], np.float32)) for key, path in paths.items()})


def to_torch(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Flax parameters -> {torch key: array}, the inverse of `from_torch`."""
    leaves = trees.flatten(params)
    return {torch_key(path): _swapped(path, np.asarray(leaf, np.float32)) for path, leaf in leaves.items()}


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Flax parameters from an .npz or .safetensors file with torch keys.

    Raises `WeightsError`, naming the file, for one that cannot be read or whose keys are not mamba.py's.
    """
    try:
        return from_torch(files.read_npz(path) if _is_npz(path) else safetensors.numpy.load_file(path))
    except (ValueError, TypeError, safetensors.SafetensorError) as error:
        raise WeightsError(f"{os.fspath(path)} holds no weights of mamba.py: {error}") from error


def save(params: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Writes Flax parameters with torch keys as .npz or .safetensors, whole or not at all."""
    leaves = to_torch(params)
    with files.replacing(path) as file:
        if _is_npz(path):
            np.savez(file, allow_pickle=False, **leaves)
        else:
            file.write(safetensors.numpy.save(leaves))


def _rename(name: str, table: Any, what: str) -> str:
    number = re.search(r"(?<=layers[._])\d+", name)
    generic = name if number is None else f"{name[: number.start()]}{{}}{name[number.end() :]}"
    for source, target in table:
        if source == generic:
            return target if number is None else target.format(number.group())
    raise ValueError(f"unknown {what} {name!r}; possible, with a number for {{}}: {', '.join(s for s, _ in table)}.")


def _swapped(path: str, leaf: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(leaf.T) if path.endswith("/kernel") else leaf


def _is_npz(path: str | os.PathLike[str]) -> bool:
    suffix = pathlib.Path(path).suffix
    if suffix not in (".npz", ".safetensors"):
        raise ValueError(f"{os.fspath(path)!r} is neither .npz nor .safetensors; rename or convert it.")
    return suffix == ".npz"
