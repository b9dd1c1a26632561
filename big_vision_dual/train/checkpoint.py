"""Checkpoints with orbax: asynchronous, atomic, and doubted only where their contents are known to be damaged."""

from __future__ import annotations

import contextlib
import enum
import errno
import itertools
import logging
import os
import re
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers as policies

from big_vision_dual.core import trees
from big_vision_dual.core.dualize import former
from big_vision_dual.train import digests, distributed, workdir

PyTree = Any
_DAMAGED, _SUPERSEDED = "damaged", "superseded"
_STEP = "step"  # among the notes, from 0.2 on
_KEEP_LATEST = 2  # the newest, and the one before in case the newest turns out damaged
_RETRY_SECONDS = (1.0, 5.0)  # before the second and the third attempt at reading


class CheckpointError(RuntimeError):
    """A checkpoint that could not be written, or none that can be read."""


class _Outcome(enum.IntEnum):
    """What became of reading a checkpoint; of several hosts, the least counts."""

    UNREAD, DAMAGED, READ = range(3)


class Checkpoints:
    """The checkpoints of one workdir: the two newest and every `keep_every` steps, each a folder `{step}`.

    A checkpoint holds a tree of arrays (the TrainState) and `notes`, a JSON object. It is written beside
    its final place and renamed when complete, so that a crash leaves the ones before untouched. The first that a
    process writes is read back at once. Raises WorkdirError for a path that orbax cannot read back, NotADirectoryError
    where something else is in its place, which orbax would take for no checkpoints.
    """

    def __init__(self, folder: epath.PathLike, keep_every: int = 0, read_only: bool = False):
        self._folder = epath.Path(folder)
        self._read_only = read_only
        self._read_back = read_only
        if not read_only:
            workdir.refuse_patterns(self._folder)
        if self._folder.exists() and not self._folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), os.fspath(self._folder))
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
        self._reader = ocp.Checkpointer(ocp.CompositeCheckpointHandler())

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
        notes = digests.signed({**notes, _STEP: step, "shapes": _shapes(state), "digests": digests.of_tree(state)})
        try:
            self._manager.wait_until_finished()
            begun = self._manager.save(
                step, args=ocp.args.Composite(state=ocp.args.StandardSave(state), notes=ocp.args.JsonSave(notes))
            )
        except Exception as error:
            raise self._not_written(error) from error
        if not begun:
            raise CheckpointError(f"{self._folder / str(step)} is there already and is not overwritten.")
        if not self._read_back:
            self.wait()
            self._check_back(step, state)

    def wait(self) -> None:
        """Returns when the last `save` is on disk; raises CheckpointError when that failed."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._not_written(error) from error

    def close(self) -> None:
        try:
            self._manager.close()
        except Exception as error:
            raise self._not_written(error) from error
        finally:
            self._reader.close()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            self.close()
        elif not isinstance(error, distributed.HostLost):  # what is being written would wait for that host
            with contextlib.suppress(Exception):  # the first error is the one to report
                self.close()

    def restore(self, state: PyTree, step: int | None = None) -> tuple[PyTree, dict[str, Any]] | None:
        """(state, notes) of the newest sound checkpoint, or of that of `step`; None where there is none at all.

        state: shapes, dtypes and shardings of what to restore; the sharding, and the number of devices, may
          differ from those it was saved with.
        A damaged checkpoint gives way to the one before, with a warning; once that is read, the damaged one is
        renamed to `{step}.damaged`, or `{step}.superseded` where an older `step` was asked for. One so renamed that
        can be read after all is taken again. Raises CheckpointError, and renames nothing, when one cannot be read
        for a reason that may pass, when there are only damaged ones, or when one is of another model.
        """
        candidates = list(self._candidates())
        if step is not None:
            candidates = self._of_step(candidates, step)
        for number, (at, path) in enumerate(candidates):
            found = self._attempt(path, state)
            if found is not None:
                self._settle(at, path, candidates[:number])
                return found
        if candidates:
            raise CheckpointError(
                f"none of the checkpoints in {self._folder} can be read: "
                f"{', '.join(path.name for _, path in candidates)}. Nothing was renamed. Delete that folder to start "
                "afresh, or give another workdir and config.resume another run's."
            )
        return None

    def notes(self, step: int) -> dict[str, Any]:
        """What was noted beside the state of `step`. Raises what orbax does, and digests.Damaged."""
        return self._notes(self._folder / str(step))

    def _notes(self, path: epath.Path) -> dict[str, Any]:
        read = self._reader.restore(path, args=ocp.args.Composite(notes=ocp.args.JsonRestore()))["notes"]
        return digests.checked(read)

    def _candidates(self) -> Iterator[tuple[int, epath.Path]]:
        """(step, folder) of what may be restored, newest first; of one step the one not set aside first."""
        named = [(step, self._folder / str(step)) for step in self.steps]
        aside = [(int(found[1]), path) for path in self._folder.glob(f"*.{_DAMAGED}*")
                 if (found := re.fullmatch(rf"(\d+)\.{_DAMAGED}(-\d+)?", path.name))]  # fmt: skip
        yield from sorted(named + aside, key=lambda one: (-one[0], len(one[1].name)))

    def _of_step(self, candidates: list[tuple[int, epath.Path]], step: int) -> list[tuple[int, epath.Path]]:
        chosen = [one for one in candidates if one[0] == step]
        if not chosen:
            possible = ", ".join(str(at) for at in sorted({at for at, _ in candidates})) or "none"
            raise CheckpointError(f"config.resume_step={step}: possible in {self._folder}: {possible}.")
        return chosen

    def _attempt(self, path: epath.Path, state: PyTree) -> tuple[PyTree, dict[str, Any]] | None:
        """What `path` holds; None, with a warning, where it is damaged."""
        for pause in (*_RETRY_SECONDS, None):
            found, error = None, None
            try:
                found = self._read(path, state)
                outcome = _Outcome.READ
            except CheckpointError:
                raise
            except Exception as raised:  # orbax, tensorstore and JSON each have their own
                error = raised
                outcome = _Outcome.DAMAGED if digests.is_damage(raised) and path.exists() else _Outcome.UNREAD
            outcome = _of_all_hosts(outcome)
            if outcome is _Outcome.READ:
                return found
            reason = f"{type(error).__name__}: {_first_line(error)}" if error else "so another host says"
            if outcome is _Outcome.DAMAGED:
                logging.warning("checkpoint %s in %s is damaged and is skipped: %s", path.name, self._folder, reason)
                return None
            if pause is None:
                raise CheckpointError(
                    f"checkpoint {path.name} in {self._folder} could not be read, which need not be its fault: "
                    f"{reason}. All checkpoints are left as they are: run the same command again when that is mended, "
                    "or with --config.resume_step=N for an older one."
                ) from error
            logging.warning("checkpoint %s could not be read (%s); trying again in %g s", path.name, reason, pause)
            time.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    def _read(self, path: epath.Path, state: PyTree) -> tuple[PyTree, dict[str, Any]]:
        what = f"checkpoint {path.name} in {self._folder}"
        notes = self._notes(path)
        step = int(path.name.partition(".")[0])
        if notes.get(_STEP, step) != step:
            raise digests.Damaged(f"it is that of step {notes[_STEP]}, in a folder of another name")
        like = former.as_saved(state, notes["shapes"])
        _check_shapes(notes["shapes"], _shapes(like), what)
        restored = self._reader.restore(path, args=ocp.args.Composite(state=ocp.args.StandardRestore(like)))["state"]
        if "digests" in notes:
            expected, found = notes["digests"], digests.of_tree(restored)
        else:
            expected, found = notes["sums"], digests.of_tree_before_0_2(restored)
        changed = [name for name, value in found.items() if expected[name] != value]
        if changed:
            raise digests.Damaged(f"contents of {changed[0]} changed on disk")
        return former.joined(restored, state), notes

    def _check_back(self, step: int, state: PyTree) -> None:
        """Reads what was just written; raises CheckpointError where that does not give it back."""
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
        try:
            self._read(self._folder / str(step), like)
        except Exception as error:
            reason = f"{type(error).__name__}: {_first_line(error)}"
            if digests.is_damage(error) or isinstance(error, CheckpointError):
                raise CheckpointError(
                    f"checkpoint in {self._folder} of step {step} was written but does not read back: {reason}. "
                    "Training stops before more is lost: give a workdir on another file system."
                ) from error
            logging.warning("checkpoint %d could not be read back for a check: %s", step, reason)
        self._read_back = True

    def _settle(self, step: int, path: epath.Path, damaged: list[tuple[int, epath.Path]]) -> None:
        """Makes `path` the newest: names it by its step, and renames what would stand in its way."""
        if self._read_only:
            return
        worse = {other for _, other in damaged}
        renamed = [(other, f"{at}.{_DAMAGED if other in worse else _SUPERSEDED}") for at, other in self._candidates()
                   if other.name == str(at) and (other in worse or at > step)]  # fmt: skip
        if jax.process_index() == 0:
            for other, name in renamed:
                other.rename(self._unused(name))
            if path.name != str(step):
                path.rename(self._folder / str(step))
                logging.warning("%s in %s can be read again, and is taken", path.name, self._folder)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"settled {step}")
        self._manager.reload()

    def _unused(self, name: str) -> epath.Path:
        """The path `name`, with a number where there is one of that name."""
        names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
        return next(path for path in map(self._folder.joinpath, names) if not path.exists())

    def _not_written(self, error: Exception) -> CheckpointError:
        with contextlib.suppress(Exception):
            self._manager.reload()
        kept = f"the last good one, step {self.latest}, is kept" if self.latest else "there is none yet"
        return CheckpointError(
            f"could not write a checkpoint to {self._folder}: {_first_line(error)}; {kept}. "
            f"{workdir.remedy(error)}, and run the same command again."
        )


def _of_all_hosts(outcome: _Outcome) -> _Outcome:
    """The worst outcome of any host."""
    if jax.process_count() == 1:
        return outcome
    return _Outcome(int(np.min(multihost_utils.process_allgather(np.asarray(int(outcome))))))


def _first_line(error: BaseException | None) -> str:
    """What happened, in at most 400 characters; tensorstore says it last, after the paths, before its settings."""
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    line = re.split(r" \[tensorstore_spec(?:\[\d+\])?=", line)[0]
    return line if len(line) <= 400 else f"{line[:100]} ... {line[-290:]}"


def _shapes(tree: PyTree) -> dict[str, str]:
    return {path: f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in trees.flatten(tree).items()}


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
