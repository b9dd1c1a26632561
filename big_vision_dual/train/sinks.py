"""Where the rows of a run go beside its workdir: Weights & Biases, which may fail without ending the training."""

from __future__ import annotations

import functools
import logging
import os
import shlex
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import numpy as np
from etils import epath

from big_vision_dual.core import files
from big_vision_dual.core.tables import TargetNormTable
from big_vision_dual.train import changes, run_files, table_picture
from big_vision_dual.train import workdir as workdir_lib
from big_vision_dual.train.setup import Run

_CONNECT_SECONDS, _FINISH_SECONDS = 20.0, 60.0  # for how long wandb may hold the training up, each time
_PROJECT = "big_vision_dual"
_LOWEST_IS_BEST = ("loss",)
_HIGHEST_IS_BEST = ("acc@1", "prec@1")
_SPEED = ("img/sec", "img/sec/core", "core_hours", "step_seconds", "data_wait_seconds", "mfu", "uptime")
_NORMS = ("weight_norm", "update_norm", "gradient_norm")


class Sink(Protocol):
    """Takes the rows of a run. No method raises: what goes wrong is logged, once."""

    id: str | None

    def log(self, row: Mapping[str, Any]) -> None:
        """One row of metrics, with its 'step'."""

    def alert(self, title: str, text: str) -> None:
        """Something that a person should hear of: the run stopped, or is not finite."""

    def close(self) -> None: ...


class NoSink:
    """Stands in where wandb is switched off, and on all hosts but the first."""

    id: str | None = None

    def log(self, row: Mapping[str, Any]) -> None:
        del row

    def alert(self, title: str, text: str) -> None:
        del title, text

    def close(self) -> None:
        pass


def open_sink(run: Run, workdir: epath.Path | None, known_id: str | None) -> Sink:
    """What `config.wandb` asks for: False or None for none, True or a dict of options of `wandb.init`."""
    options = run.config.get("wandb")
    if not options or workdir is None or jax.process_index() != 0:
        return NoSink()
    return WandbSink(run, workdir, _run_id(workdir, known_id), {} if options is True else dict(options))


def _run_id(workdir: epath.Path, known_id: str | None) -> str:
    """The id kept in the workdir or the checkpoint, else a new one, kept before wandb hears of it."""
    file = workdir / run_files.WANDB_ID
    try:
        kept = files.read(file).strip() if file.exists() else ""
    except files.FileError as error:
        logging.warning("%s", error)
        kept = ""
    if kept.isalnum():
        return kept
    run_id = known_id or uuid.uuid4().hex[:12]
    files.write(file, run_id)
    return run_id


def sectioned(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row under wandb's sections: train, speed, one per evaluator, and per kind of atom norms/KIND.

    Norms of atoms become lists, one per kind and measurement, to be drawn as histograms; 'training_loss', Big Vision's
    name, is 'train/loss' here.
    """
    named: dict[str, Any] = {}
    for name, value in row.items():
        what, _, group = name.partition("/")
        if what in _NORMS:
            named.setdefault(f"norms/{group.partition('/')[0]}/{what}", []).append(value)
        elif name in _SPEED:
            named[f"speed/{name.replace('/', '_per_')}"] = value
        elif what != name:
            named[name] = value
        elif name not in ("training_loss", "step"):
            named[f"train/{name}"] = value
    return named


def _never_raises(method: Callable[..., None]) -> Callable[..., None]:
    """Logs the first error of a sink's method, and from then on does nothing."""

    @functools.wraps(method)
    def guarded(self: WandbSink, *arguments: Any) -> None:
        if self.failed:
            return
        try:
            method(self, *arguments)
        except Exception as error:
            self.failed = True
            logging.warning("wandb failed (%s: %s) and is left out from here on.", type(error).__name__, error)

    return guarded


class WandbSink:
    """One wandb run, the same over all restarts of a workdir: online where a login is stored and answers, else offline.

    options: of `wandb.init`, such as project, entity, name, mode; they come before what is set here.
    """

    def __init__(self, run: Run, workdir: epath.Path, run_id: str, options: Mapping[str, Any]):
        self.id: str | None = run_id
        self.failed = False
        self._folder = None if "://" in os.fspath(workdir) else workdir
        self._last_norms: dict[str, dict[str, float]] = {}
        self._begin(run, workdir, options)

    @_never_raises
    def _begin(self, run: Run, workdir: epath.Path, options: Mapping[str, Any]) -> None:
        self._wandb = _started({**_described(run, workdir), "id": self.id, "dir": self._folder, **options})
        for evaluator in run.config.get("evals") or {}:
            for best, names in (("max", _HIGHEST_IS_BEST), ("min", _LOWEST_IS_BEST)):
                for name in names:
                    self._wandb.define_metric(f"{evaluator}/{name}", summary=best)
        self._attach(workdir / run_files.CONFIG, None)
        if run.table is not None:
            self._attach(workdir / run_files.TABLE, run.table)

    @_never_raises
    def log(self, row: Mapping[str, Any]) -> None:
        """Rows that a restart computes again are the same, and wandb keeps the first."""
        import wandb

        values = {
            name: wandb.Histogram(np.asarray(value)) if isinstance(value, list) else value  # pyright: ignore[reportArgumentType]
            for name, value in sectioned(row).items()
        }
        self._wandb.log(values, step=row["step"])
        self._last_norms.update(_norm_columns(row))

    @_never_raises
    def alert(self, title: str, text: str) -> None:
        self._wandb.alert(title, text)

    @_never_raises
    def close(self) -> None:
        import wandb

        if self._last_norms:
            rows: list[Any] = [[group, *map(norms.get, _NORMS)] for group, norms in sorted(self._last_norms.items())]
            self._wandb.log({"norms/last": wandb.Table(["group", *_NORMS], rows)})
        self._wandb.finish()
        if self._wandb.settings._offline:
            self._say_how_to_send()

    def _attach(self, file: epath.Path, table: TargetNormTable | None) -> None:
        import wandb

        artifact = wandb.Artifact(f"{file.stem}-{self.id}", type=file.stem)
        with artifact.new_file(file.name, mode="wb") as copy:
            copy.write(file.read_bytes())
        if table is not None:
            picture = table_picture.png(table)
            with artifact.new_file(f"{file.stem}.png", mode="wb") as copy:
                copy.write(picture)
        self._wandb.log_artifact(artifact)

    def _say_how_to_send(self) -> None:
        """Each start of an offline run leaves a folder; all of them make one run when they are sent."""
        folder = os.path.dirname(self._wandb.settings.sync_dir)
        names = sorted(name for name in os.listdir(folder) if name.endswith(f"-{self.id}"))
        paths = " ".join(shlex.quote(os.path.join(folder, name)) for name in names)
        logging.warning("wandb was offline; send the run with: wandb sync %s", paths)


def _norm_columns(row: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """{'Linear/query': {'weight_norm': ..., ...}} of a row."""
    columns: dict[str, dict[str, float]] = {}
    for name, value in row.items():
        what, _, group = name.partition("/")
        if what in _NORMS:
            columns.setdefault(group, {})[what] = value
    return columns


def _described(run: Run, workdir: epath.Path) -> dict[str, Any]:
    """Options of wandb.init that say what the run is: name, group, tags, job type, notes and config."""
    config = run.config
    optimizer = str(config.optax_name).rpartition(".")[2]
    return {
        "project": _PROJECT,
        "name": workdir.name,
        "group": workdir.parent.name or None,
        "job_type": "train",
        "tags": [str(config.model_name), optimizer, str(jax.devices()[0].platform)],
        "notes": workdir_lib.command(),
        "config": {**changes.plain(config), "run": {**workdir_lib.facts(run), "workdir": os.fspath(workdir)}},
    }


def _started(options: dict[str, Any]) -> Any:
    """A wandb run: online where a login is stored; without one, or without an answer in time, offline."""
    import wandb  # takes 2 seconds

    options = {**options, "dir": None if options["dir"] is None else os.fspath(options["dir"]), "resume": "allow"}
    settings = wandb.Settings(
        console="off", silent=True, init_timeout=_CONNECT_SECONDS, login_timeout=_CONNECT_SECONDS,
        finish_timeout=_FINISH_SECONDS,
    )  # fmt: skip
    try:
        if not (options.get("mode") or os.environ.get("WANDB_MODE")):
            options["mode"] = "online" if wandb.login(prompt=False) else "offline"
        return wandb.init(settings=settings, **options)
    except Exception as error:  # wandb's own, and those of the network below it
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        logging.warning("wandb does not answer (%s); the run is kept offline.", reason[:200])
        return wandb.init(settings=settings, **{**options, "mode": "offline"})
