"""Where a run begins: its own checkpoint, another run's, a weights file, or fresh parameters."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
from etils import epath

from big_vision_dual.core import trees
from big_vision_dual.models import weights
from big_vision_dual.train import changes, checkpoint, digests, run_files, setup
from big_vision_dual.train import workdir as workdir_lib
from big_vision_dual.train.setup import Run
from big_vision_dual.train.update import TrainState


@dataclasses.dataclass(frozen=True)
class Start:
    """state, what the checkpoint noted beside it ({} without one), and a line for the person watching.

    rewound: what later checkpoints note of config.resume_step, so that the same command after a preemption goes on
      from them and not back again; None without one.
    """

    state: TrainState
    notes: dict[str, Any]
    told: str
    rewound: dict[str, Any] | None = None


def begin(run: Run, checkpoints: checkpoint.Checkpoints | None) -> Start:
    """The first that there is of: a checkpoint of the workdir, config.resume, config.model_init, fresh.

    config.resume_step: continues at that checkpoint instead of the newest one; those after it are set aside.
    config.resume: workdir of another run; its checkpoint is continued, step, optimizer and all.
    config.model_init: weights file, see `models.weights.load`; config.model_load may have `dont_load`
      and `stored_grid`.
    """
    rewound = _rewound(run)
    if checkpoints and checkpoints.latest is not None:
        step = None if _went_back(checkpoints, rewound) else run.config.get("resume_step")
        found = checkpoints.restore(run.fns.state, step)
    else:
        found = checkpoints.restore(run.fns.state) if checkpoints else None
    if found is not None:
        return Start(*found, f"continues at step {int(found[0].step)} of this workdir", rewound)
    if run.config.get("resume"):
        return _resume(run, run.config.resume)
    if rewound:
        raise checkpoint.CheckpointError(f"config.resume_step={rewound['step']}, but the workdir has no checkpoint.")
    state = run.fns.init()
    if run.config.get("model_init"):
        return Start(_with_weights(run, state, run.config.model_init), {}, f"starts from {run.config.model_init}")
    return Start(state, {}, "starts afresh")


def _rewound(run: Run) -> dict[str, Any] | None:
    step = run.config.get("resume_step")
    return None if step is None else {"step": step, "config": digests.of_json(changes.plain(run.config))}


def _went_back(checkpoints: checkpoint.Checkpoints, rewound: dict[str, Any] | None) -> bool:
    """Whether the newest checkpoint comes from the same command, which has gone back to its step before."""
    assert checkpoints.latest is not None
    if rewound is None:
        return False
    try:
        return checkpoints.notes(checkpoints.latest).get("rewound") == rewound
    except Exception:  # one that cannot be read is no reason to go back: `restore` says what is wrong with it
        logging.warning("the notes of checkpoint %d cannot be read", checkpoints.latest)
        return False


def left_by(
    run: Run, workdir: epath.PathLike, named: str, step: int | None = None
) -> tuple[TrainState, dict[str, Any]]:
    """(state, notes) of the newest checkpoint, or that of `step`, in another run's workdir, which stays as it is.

    named: how the workdir was given, for the message. Raises CheckpointError where there is none.
    """
    other = checkpoint.Checkpoints(workdir_lib.located(workdir) / run_files.CHECKPOINTS, read_only=True)
    try:
        found = other.restore(run.fns.state, step)
    finally:
        other.close()
    if found is None:
        raise checkpoint.CheckpointError(f"{named} has no checkpoint; give the workdir of a run.")
    return found


@dataclasses.dataclass(frozen=True)
class _NoData:
    """In place of training data that nobody reads."""

    num_examples: int = 2**30
    num_classes: int | None = None


def run_of(workdir: epath.PathLike) -> Run:
    """The run that a workdir's config.json describes, without its training data.

    Raises `CheckpointError` for a folder without config or checkpoint.
    """
    folder = workdir_lib.located(workdir)
    if not all((folder / name).exists() for name in (run_files.CONFIG, run_files.CHECKPOINTS)):
        raise checkpoint.CheckpointError(f"{workdir} has no checkpoint of a run; give the --workdir of a training.")
    config = ml_collections.ConfigDict(run_files.config(folder))
    return setup.prepare(config, source=_NoData())  # pyright: ignore[reportArgumentType]


def weights_at(place: str, params: Any, model: Mapping[str, Any]) -> Any:
    """The weights of a checkpoint, laid out as `params`, those of `config.model`; stacked layers or not.

    place: a run's workdir (its newest checkpoint), a folder 'WORKDIR/checkpoints/STEP', or a weights file as
    `models.weights.read` takes it. Raises `CheckpointError` where there is none, `WeightsError` for another model's.
    """
    if weights.names_file(place):
        return weights.load(params, place, model)
    path = workdir_lib.located(place)
    of_step = path.parent.name == run_files.CHECKPOINTS and path.name.isdigit()
    folder, step = (path.parent.parent, int(path.name)) if of_step else (path, None)
    state, _ = left_by(run_of(folder), folder, place, step)
    return weights.laid_out(trees.flatten(jax.device_get(state.params)), params, place, model)


def _resume(run: Run, workdir: str) -> Start:
    state, notes = left_by(run, workdir, f"config.resume={workdir!r}", run.config.get("resume_step"))
    for change in changes.against(workdir_lib.located(workdir), run.config):
        logging.info("config.resume: another config than there: %s", change)
    kept = {name: value for name, value in notes.items() if name not in ("wandb_id", "rewound", "rows")}
    return Start(state, kept, f"continues at step {int(state.step)} of {workdir}", _rewound(run))


def _with_weights(run: Run, state: TrainState, spec: str) -> TrainState:
    options = run.config.get("model_load") or {}
    loaded = weights.load(state.params, spec, run.config.get("model", {}), grid=_patch_grid(run), **options)
    params = jax.tree.map(lambda new, old: jax.device_put(new, old.sharding), loaded, state.params)
    ema_params = None if state.ema_params is None else jax.tree.map(lambda leaf: leaf.copy(), params)
    return state.replace(params=params, ema_params=ema_params)


def _patch_grid(run: Run) -> tuple[int, int] | None:
    """(rows, columns) of a model's patches, None where it has none."""
    patch_size = getattr(run.model, "patch_size", None)
    if patch_size is None:
        return None
    rows, columns = (side // patch for side, patch in zip(run.config.input_shape, patch_size, strict=False))
    return rows, columns
