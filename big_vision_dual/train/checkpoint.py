"""Checkpoints with orbax: asynchronous, atomic, checked for damage when read."""

from __future__ import annotations

import contextlib
import itertools
import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers as policies

from big_vision_dual.train import distributed

PyTree = Any
FOLDER = "checkpoints"
_DAMAGED = "damaged"
_KEEP_LATEST = 2  # the newest, and the one before in case the newest turns out damaged


class CheckpointError(RuntimeError):
    """A checkpoint that could not be written, or none that can be read."""


class Checkpoints:
    """The checkpoints of one workdir: the two newest and every `keep_every` steps, each a folder `{step}`.

    A checkpoint holds a tree of arrays (the TrainState) and `notes`, a JSON object. It is written beside
    its final place and renamed when complete, so that a crash leaves the ones before untouched.
    """

    def __init__(self, folder: epath.PathLike, keep_every: int = 0, read_only: bool = False):
        self._folder = epath.Path(folder)
        self._read_only = read_only
        keep: list[Any] = [policies.LatestN(_KEEP_LATEST)]
        if keep_every:
            keep.append(policies.EveryNSteps(keep_every))
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy(keep),
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
            save_interval_steps=0 if read_only else 1,  # orbax warns of any other for a reader
            create=not read_only,
        )
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    @property
    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        return sorted(self._manager.all_steps())

    @property
    def latest(self) -> int | None:
        return self.steps[-1] if self.steps else None

    def save(self, step: int, state: PyTree, notes: dict[str, Any]) -> None:
        """Starts to write a checkpoint; `state` may be donated as soon as this returns.

        Raises CheckpointError when this or an earlier write failed, for instance because the disk is full.
        """
        notes = {**notes, "shapes": _shapes(state), "sums": jax.device_get(_sums(state))}
        notes["sums"] = {path: int(value) for path, value in notes["sums"].items()}
        try:
            self._manager.wait_until_finished()
            self._manager.save(
                step, args=ocp.args.Composite(state=ocp.args.StandardSave(state), notes=ocp.args.JsonSave(notes))
            )
        except Exception as error:
            raise self._not_written(error) from error

    def wait(self) -> None:
        """Returns when the last `save` is on disk; raises CheckpointError when that failed."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._not_written(error) from error

    def close(self) -> None:
        self._manager.close()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            self.close()
        elif not isinstance(error, distributed.HostLost):  # what is being written would wait for that host
            with contextlib.suppress(Exception):  # the first error is the one to report
                self.close()

    def restore(self, state: PyTree) -> tuple[PyTree, dict[str, Any]] | None:
        """(state, notes) of the newest checkpoint that can be read, or None where there is none at all.

        state: shapes, dtypes and shardings of what to restore; the sharding, and the number of devices, may
          differ from those it was saved with. A damaged checkpoint is renamed to `{step}.damaged`, with a
          warning, and the one before is tried. Raises CheckpointError when there are only damaged ones, or one is
          of another model.
        """
        steps = self.steps
        for step in reversed(steps):
            try:
                found = self._read(step, state)
            except CheckpointError:
                raise
            except Exception as error:  # orbax, tensorstore and JSON each have their own
                found, reason = None, error
            if _everywhere(found is not None):
                return found
            logging.warning(
                "checkpoint %d in %s cannot be read and is skipped: %s", step, self._folder,
                f"{type(reason).__name__}: {_first_line(reason)}" if found is None else "damaged on another host",
            )  # fmt: skip
            self._set_aside(step)
        damaged = sorted(path.name for path in self._folder.glob(f"*.{_DAMAGED}*"))
        if steps or damaged:
            raise CheckpointError(
                f"none of the checkpoints in {self._folder} can be read: {', '.join(damaged or map(str, steps))}. "
                "Delete that folder to start afresh, or give another workdir and config.resume another run's."
            )
        return None

    def _read(self, step: int, state: PyTree) -> tuple[PyTree, dict[str, Any]]:
        notes = self._manager.restore(step, args=ocp.args.Composite(notes=ocp.args.JsonRestore()))["notes"]
        _check_shapes(notes["shapes"], _shapes(state), f"checkpoint {step} in {self._folder}")
        args = ocp.args.Composite(state=ocp.args.StandardRestore(state))
        restored = self._manager.restore(step, args=args)["state"]
        changed = [path for path, value in jax.device_get(_sums(restored)).items() if notes["sums"][path] != value]
        if changed:
            raise ValueError(f"contents of {changed[0]} changed on disk")
        return restored, notes

    def _set_aside(self, step: int) -> None:
        if jax.process_index() == 0 and not self._read_only:
            (self._folder / str(step)).rename(self._unused(f"{step}.{_DAMAGED}"))
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"set aside {step}")
        self._manager.reload()

    def _unused(self, name: str) -> epath.Path:
        """The path `name`, with a number where the same step was damaged before."""
        names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
        return next(path for path in map(self._folder.joinpath, names) if not path.exists())

    def _not_written(self, error: Exception) -> CheckpointError:
        self._manager.reload()
        kept = f"the last good one, step {self.latest}, is kept" if self.latest else "there is none yet"
        return CheckpointError(
            f"could not write a checkpoint to {self._folder}: {_first_line(error)}; {kept}. "
            "Free some space there, or raise config.keep_ckpt_steps, and run the same command again."
        )


def _everywhere(good: bool) -> bool:
    """Whether `good` holds on all hosts."""
    if jax.process_count() == 1:
        return good
    return bool(np.all(multihost_utils.process_allgather(np.asarray(good))))


def _first_line(error: Exception | None) -> str:
    """What happened, in at most 400 characters; tensorstore says it last, after the paths, before its settings."""
    line = next(iter(str(error).strip().splitlines()), type(error).__name__).split(" [tensorstore_spec=")[0]
    return line if len(line) <= 400 else f"{line[:100]} ... {line[-290:]}"


def _flat(tree: PyTree) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _shapes(tree: PyTree) -> dict[str, str]:
    return {path: f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in _flat(tree).items()}


def _check_shapes(saved: dict[str, str], wanted: dict[str, str], what: str) -> None:
    """Raises CheckpointError where a healthy checkpoint belongs to another model or optimizer."""
    wrong = [f"{path} is {saved[path]}, not {wanted[path]}" for path in saved.keys() & wanted.keys()
             if saved[path] != wanted[path]]  # fmt: skip
    lacks, extra = sorted(wanted.keys() - saved.keys()), sorted(saved.keys() - wanted.keys())
    if wrong or lacks or extra:
        raise CheckpointError(
            f"{what} is of another model or optimizer: {len(lacks)} leaves missing {lacks[:3]}, {len(extra)} more "
            f"{extra[:3]}, {len(wrong)} of other shape {sorted(wrong)[:3]}. Give the config it was made with, or "
            "another workdir."
        )


@jax.jit
def _sums(tree: PyTree) -> dict[str, jax.Array]:
    """Sum modulo 2^32 of each leaf's bits: the same however the leaf is sharded, other when bits flip."""
    return {path: _bit_sum(leaf) for path, leaf in _flat(tree).items()}


def _bit_sum(leaf: jax.Array) -> jax.Array:
    if jnp.issubdtype(leaf.dtype, jnp.floating):
        unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint64}[leaf.dtype.itemsize]
        leaf = jax.lax.bitcast_convert_type(leaf, unsigned)
    return jnp.sum(leaf.astype(jnp.uint32), dtype=jnp.uint32)
