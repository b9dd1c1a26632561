"""Weights in and out: Big Vision's `.npz`, position embeddings of other sizes, scan <-> loop."""

from __future__ import annotations

import math
import os
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from big_vision_dual.core import files, trees
from big_vision_dual.models import bv_checkpoint

_ROOTS = ("params/", "opt/target/")  # where Big Vision's checkpoints of different ages keep the parameters
_POSITIONS = "pos_embedding"
_ARCHIVE = re.compile(r"(.+\.npz)(?::(.+))?")


class WeightsError(ValueError):
    """A weights file that cannot be read, or that does not fit the model."""


Grid = tuple[int, int]


def load(
    init_params: Mapping[str, Any],
    spec: str,
    model_cfg: Mapping[str, Any],
    dont_load: Sequence[str] = (),
    *,
    grid: Grid | None = None,
    stored_grid: Grid | None = None,
) -> dict[str, Any]:
    """Parameters of the file `spec`, 'PATH.npz' or 'PATH.npz:SUBMODEL', laid out as `init_params`.

    Leaves whose whole path matches a regex of `dont_load` stay those of `init_params`, and may be absent from the
    file. `model_cfg.scan` says whether the model stacks its blocks. Learned positions are resampled to the model's
    grid of patches, `grid` (rows, columns), from that of the file, `stored_grid` (default: a square one).
    Raises `WeightsError` listing missing and unexpected leaves and different shapes.
    """
    return laid_out(read(spec), init_params, spec, model_cfg, dont_load, grid=grid, stored_grid=stored_grid)


def laid_out(
    leaves: Mapping[str, np.ndarray],
    init_params: Mapping[str, Any],
    spec: str,
    model_cfg: Mapping[str, Any],
    dont_load: Sequence[str] = (),
    *,
    grid: Grid | None = None,
    stored_grid: Grid | None = None,
) -> dict[str, Any]:
    """`load` of leaves that are read already; `spec` names them in errors."""
    stored = loop_to_scan(leaves) if model_cfg.get("scan") else scan_to_loop(leaves)
    ours = trees.flatten(init_params)
    skipped = set(not_loaded({*ours, *stored}, dont_load))
    wanted = {path: leaf for path, leaf in ours.items() if path not in skipped}
    stored = {path: leaf for path, leaf in stored.items() if path not in skipped}
    if _POSITIONS in stored and _POSITIONS in wanted:
        tokens = wanted[_POSITIONS].shape[1]
        stored[_POSITIONS] = resample_positions(stored[_POSITIONS], tokens, grid=grid, stored_grid=stored_grid)
    _check(stored, wanted, spec)
    return trees.unflatten({path: stored.get(path, leaf) for path, leaf in ours.items()})


def not_loaded(paths: Iterable[str], dont_load: Sequence[str]) -> list[str]:
    """Those of `paths` that a regex of `dont_load` matches as a whole, sorted."""
    return sorted(path for path in paths if any(re.fullmatch(pattern, path) for pattern in dont_load))


def save(params: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Writes `params` as an `.npz` with '/'-joined keys, all of it or nothing."""
    leaves = {key: np.asarray(leaf) for key, leaf in trees.flatten(params).items()}
    with files.replacing(path) as file:
        np.savez(file, allow_pickle=False, **leaves)


def read(spec: str) -> dict[str, np.ndarray]:
    """{path: array} of 'PATH.npz' or a folder 'W/checkpoint.bv-STEP', each also with ':SUBMODEL'.

    The keys of an archive are bare, or those below params/ or opt/target/.
    """
    of_big_vision = bv_checkpoint.parse(spec)
    if of_big_vision:
        return _read_checkpoint(*of_big_vision, spec)
    match = _ARCHIVE.fullmatch(spec)
    if not match:
        raise WeightsError(
            f"weights {spec!r} are not an .npz file; give 'PATH.npz', 'PATH.npz:SUBMODEL', or a checkpoint of Big "
            "Vision's trainer, 'W/checkpoint.bv' or 'W/checkpoint.bv-STEP'."
        )
    leaves = _read_archive(pathlib.Path(match[1]))
    for root in _ROOTS:
        if any(key.startswith(root) for key in leaves):
            leaves = _below(leaves, root)
            break
    return _submodel(leaves, match[2], spec) if match[2] else leaves


def names_file(spec: str) -> bool:
    """Whether a text has the form that `read` takes."""
    return bool(bv_checkpoint.parse(spec) or _ARCHIVE.fullmatch(spec))


def _read_checkpoint(path: str, submodel: str | None, spec: str) -> dict[str, np.ndarray]:
    try:
        leaves = {key: np.asarray(leaf, np.float32) for key, leaf in bv_checkpoint.read(path).items()}
    except FileNotFoundError as error:
        raise WeightsError(str(error)) from error
    return _submodel(leaves, submodel, spec) if submodel else leaves


def _read_archive(file: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        return {key: _recover_bfloat16(leaf) for key, leaf in files.read_npz(file).items()}
    except FileNotFoundError as error:
        near = sorted(str(other) for other in file.parent.glob("*.npz"))
        raise WeightsError(f"no weights file {file}; .npz files there: {', '.join(near) or 'none'}.") from error
    except files.FileError as error:
        raise WeightsError(f"{error} Copy or download it again.") from error


def _below(leaves: Mapping[str, np.ndarray], root: str) -> dict[str, np.ndarray]:
    return {key.removeprefix(root): leaf for key, leaf in leaves.items() if key.startswith(root)}


def _submodel(leaves: Mapping[str, np.ndarray], submodel: str, spec: str) -> dict[str, np.ndarray]:
    part = _below(leaves, f"{submodel}/")
    if not part:
        roots = ", ".join(sorted({key.split("/")[0] for key in leaves}))
        raise WeightsError(f"{spec}: no submodel {submodel!r} in the file; possible: {roots}.")
    return part


def _recover_bfloat16(leaf: np.ndarray) -> np.ndarray:
    """bfloat16 -> float32: NumPy stores bfloat16 as two raw bytes and forgets its name."""
    return leaf.view(jnp.bfloat16).astype(np.float32) if leaf.dtype == np.dtype("V2") else leaf


def loop_to_scan(leaves: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """{path: array}: stacks every `encoderblock_{i}/NAME`, i from 0, into `encoderblock/NAME`."""
    stacked: dict[str, Any] = {}
    layers: dict[str, dict[int, np.ndarray]] = {}
    for path, leaf in leaves.items():
        match = re.fullmatch(r"(.*encoderblock)_(\d+)(/.*)", path)
        if match:
            layers.setdefault(match[1] + match[3], {})[int(match[2])] = leaf
        else:
            stacked[path] = leaf
    for path, by_layer in layers.items():
        stacked[path] = np.stack([by_layer[i] for i in sorted(by_layer)])
    return stacked


def scan_to_loop(leaves: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """{path: array}: the inverse of `loop_to_scan`."""
    loop = {}
    for path, leaf in leaves.items():
        match = re.fullmatch(r"(.*encoderblock)(/.*)", path)
        if match:
            loop |= {f"{match[1]}_{i}{match[2]}": layer for i, layer in enumerate(leaf)}
        else:
            loop[path] = leaf
    return loop


def resample_positions(
    positions_1xTxD: np.ndarray, tokens: int, *, grid: Grid | None = None, stored_grid: Grid | None = None
) -> np.ndarray:
    """Position embedding of one grid -> (1, tokens, D) of another, bilinear with the corners aligned.

    grid, stored_grid: as in `load`. Raises `WeightsError` where a grid has to be known and is not.
    """
    if positions_1xTxD.ndim != 3 or positions_1xTxD.shape[0] != 1:
        raise WeightsError(f"{_POSITIONS} has shape {positions_1xTxD.shape} in the file; possible: (1, tokens, width).")
    old_tokens, width = positions_1xTxD.shape[1:]
    if tokens == old_tokens and stored_grid in (None, grid):
        return positions_1xTxD
    side = round(old_tokens**0.5)
    old = stored_grid or ((side, side) if side**2 == old_tokens else None)
    if grid is None or old is None or (math.prod(old), math.prod(grid)) != (old_tokens, tokens):
        raise WeightsError(
            f"{_POSITIONS}: {old_tokens} positions in the file on a grid {old or 'that is not square'}, {tokens} in "
            f"the model on a grid {grid or 'unknown'}; say what they are with grid=(rows, columns) and stored_grid= "
            f"(config.model_load.stored_grid), or start them afresh with dont_load=['{_POSITIONS}']."
        )
    (rows_out, rows_in), (columns_out, columns_in) = zip(grid, old, strict=True)
    of_rows, of_columns = _bilinear(rows_in, rows_out), _bilinear(columns_in, columns_out)
    laid_out = positions_1xTxD.reshape(*old, width)
    resampled = np.einsum("io,jp,opd->ijd", of_rows, of_columns, laid_out, optimize=True)
    return resampled.reshape(1, tokens, width).astype(positions_1xTxD.dtype)


def _bilinear(old: int, new: int) -> np.ndarray:
    """(new, old) interpolation weights from `old` points to `new` on the same interval, ends included."""
    at = np.linspace(0, old - 1, new)
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(old)))


def _check(stored: Mapping[str, np.ndarray], wanted: Mapping[str, Any], spec: str) -> None:
    shared = sorted(set(stored) & set(wanted))
    problems = {
        "missing from the file": sorted(set(wanted) - set(stored)),
        "not in the model": sorted(set(stored) - set(wanted)),
        "of another shape": [
            f"{path} {stored[path].shape} in the file, {wanted[path].shape} in the model"
            for path in shared
            if stored[path].shape != wanted[path].shape
        ],
    }
    lines = [f"{len(paths)} leaves {what}: {'; '.join(paths)}." for what, paths in problems.items() if paths]
    if lines:
        raise WeightsError(
            "\n".join([f"{spec} does not fit the model.", *lines])
            + "\nChange config.model to the file's model, or leave leaves at their initial values with regexes over "
            "whole paths, for instance dont_load=['head/.*']."
        )
