"""Sends the metrics to Weights & Biases: online when logged in, else into the workdir for `wandb sync`."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from etils import epath

_ID_FILE = "wandb_id.txt"
_CONNECT_SECONDS = 30
DEFAULTS = {"project": "big_vision_dual"}


class NoLog:
    """Stands in where wandb is switched off, and on all hosts but the first."""

    id: str | None = None

    def log(self, row: Mapping[str, Any]) -> None:
        del row

    def close(self) -> None:
        pass


class WandbLog:
    """One wandb run, the same over all restarts of a workdir.

    options: of `wandb.init`, such as project, entity, name, mode. files: attached as artifacts.
    """

    def __init__(
        self, options: Mapping[str, Any], config: Any, workdir: epath.Path, run_id: str, files: Sequence[epath.Path]
    ):
        self.id = run_id
        self._run = _start({**DEFAULTS, **options}, config, workdir, run_id)
        for best, names in (("max", ("acc@1", "prec@1")), ("min", ("loss",))):
            for name in names:
                for evaluator in config.get("evals", {}):
                    self._run.define_metric(f"{evaluator}/{name}", summary=best)
        for file in files:
            self._attach(file)

    def log(self, row: Mapping[str, Any]) -> None:
        """One row of metrics; rows that a restart computes again are the same, and wandb keeps the first."""
        self._run.log(dict(row), step=row["step"])

    def close(self) -> None:
        self._run.finish()

    def _attach(self, file: epath.Path) -> None:
        import wandb

        artifact = wandb.Artifact(f"{file.stem}-{self.id}", type=file.stem)
        artifact.add_file(os.fspath(file))
        self._run.log_artifact(artifact)


def open_log(
    config: Any, workdir: epath.Path | None, known_id: str | None, files: Sequence[epath.Path]
) -> WandbLog | NoLog:
    """The log that `config.wandb` asks for: False or None for none, True or a dict of options of `wandb.init`."""
    options = config.get("wandb")
    if not options or workdir is None or jax.process_index() != 0:
        return NoLog()
    options = {} if options is True else dict(options)
    return WandbLog(options, config, workdir, _run_id(workdir, known_id), files)


def _run_id(workdir: epath.Path, known_id: str | None) -> str:
    """The id kept in the workdir or the checkpoint, else a new one, kept before wandb hears of it."""
    file = workdir / _ID_FILE
    if file.exists():
        return file.read_text().strip()
    run_id = known_id or uuid.uuid4().hex[:12]
    file.write_text(run_id)
    return run_id


def _start(options: dict[str, Any], config: Any, workdir: epath.Path, run_id: str) -> Any:
    """Starts online where a login is stored; without one, or without an answer in time, offline."""
    import wandb  # takes 2 seconds

    folder = os.fspath(workdir) if "://" not in os.fspath(workdir) else None
    common = {"dir": folder, "id": run_id, "resume": "allow", "config": config.to_dict()} | options
    settings = wandb.Settings(init_timeout=_CONNECT_SECONDS, console="off", silent=True)
    if not (common.get("mode") or os.environ.get("WANDB_MODE")):
        common["mode"] = "online" if wandb.login(prompt=False) else "offline"
    try:
        return wandb.init(settings=settings, **common)
    except wandb.Error as error:
        logging.warning("wandb does not answer (%s); it goes on offline, send it later with `wandb sync`.", error)
        return wandb.init(settings=settings, **{**common, "mode": "offline"})
