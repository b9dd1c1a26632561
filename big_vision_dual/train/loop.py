"""The training loop: steps, and what happens between them."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import math
import time
from typing import Any

import jax
import numpy as np
from etils import epath

from big_vision_dual.train import (
    atom_norms,
    changes,
    checkpoint,
    compile_cache,
    data,
    distributed,
    examples,
    feed,
    fields,
    flops,
    health,
    lock,
    losses,
    metrics,
    optim,
    run_files,
    schema,
    setup,
    signals,
    sinks,
    start,
    telling,
    throughput,
)  # fmt: skip
from big_vision_dual.train import workdir as workdir_lib
from big_vision_dual.train.evals import Evals
from big_vision_dual.train.profiling import Profile
from big_vision_dual.train.progress import Progress
from big_vision_dual.train.sizes import Watch
from big_vision_dual.train.update import TrainState

_IN_FLIGHT = 2  # steps that may be queued on the devices: enough to keep them busy, few enough to hold their batches


def fit(
    config: Any, workdir: epath.PathLike | None = None, *, source: data.Source | None = None, name: str = ""
) -> dict[str, Any]:
    """Trains as `config` says, from where `workdir` was left; returns the last value of every metric.

    workdir: folder, local or gs://, for metrics, checkpoints and all that describes the run; None keeps
      nothing. source: training data in place of config.input.data. name: the recipe's, for the person watching.

    Raises signals.Stopped, which ends the process with exit code 75, once a stop that SIGTERM or SIGINT asked
    for is saved; health.NonFiniteError; checkpoint.CheckpointError; workdir.WorkdirError, also where another training
    has the workdir; changes.ConfigChanged; distributed.HostLost; and what `setup.prepare` raises.
    """
    with workdir_lib.failures_named(workdir), contextlib.ExitStack() as stack:
        stop = stack.enter_context(signals.StopRequest())
        folder = None if workdir is None else workdir_lib.open_workdir(workdir)
        held = _nobody_else if folder is None or jax.process_index() else stack.enter_context(lock.held(folder))
        stack.enter_context(compile_cache.enabled(config.get("compile_cache"), folder))
        session = _Session(setup.prepare(config, source), folder, stack, name)
        with distributed.lost_hosts_named():
            return session.train(stop, held)


def _nobody_else() -> None:
    """The check of a lock that is not needed."""


@dataclasses.dataclass(frozen=True)
class _Every:
    """Periods of events in steps, 0 for never."""

    log: int
    save: int
    keep: int


class _Session:
    """A run in one process, from its start to its last step or a stop."""

    def __init__(self, run: setup.Run, folder: epath.Path | None, stack: contextlib.ExitStack, name: str):
        self._run = run
        self._every = _Every(*(run.steps(name, default=steps) for name, steps in fields.PERIODS.items()))
        self._checkpoints = _open_checkpoints(folder, self._every.keep, stack)
        own = self._last_checkpoint
        changed = changes.check(folder, run.config, own) if folder is not None else ()
        alike_until = self._alike_until(own, changed)
        begun = self._begun = start.begin(run, self._checkpoints)
        self._state: TrainState = begun.state
        self._step = int(begun.state.step)
        sizes = run.config.input.batch_size, run.data_size
        self._seen = examples.Seen.noted(begun.notes, self._step, *sizes)
        if own is not None:
            changes.check_data(self._seen.by_size, run.data_size, run.config)
        if folder is not None:
            workdir_lib.describe(run, folder, self._step if changed else None)
        self._sink = sinks.open_sink(run, folder, begun.notes.get("wandb_id"))
        stack.callback(self._sink.close)
        self._writer = self._rows(folder, run_files.METRICS, alike_until)
        self._atom_writer = self._rows(folder, run_files.ATOM_NORMS, alike_until)
        self._sizes = Watch(run.course, run.table, begun.notes.get("sizes"))
        self._evals = Evals(run, workdir=folder)
        self._monitor = health.Monitor(run.fns.state.params)
        self._profile = stack.enter_context(Profile(run.config.get("profile"), folder))
        self._clock = _clock(run, begun.notes.get("core_seconds", 0.0))
        self._progress = stack.enter_context(Progress(self._step, run.total_steps))
        self._progress.say(telling.header(run, name, folder))
        self._progress.say(begun.told)

    def _alike_until(self, checkpoint: int | None, changed: tuple[changes.Change, ...]) -> float:
        """The last step whose row comes again as it was. Rows beyond the first checkpoint, where there is none, are of
        a run whose checkpoints have gone: they may come back."""
        if any(not change.free for change in changed):
            return 0
        return math.inf if checkpoint is not None else min(filter(None, self._saving), default=math.inf)

    def _rows(self, folder: epath.Path | None, name: str, alike_until: float) -> metrics.MetricWriter:
        path = folder / name if folder is not None and jax.process_index() == 0 else None
        noted = self._begun.notes.get("rows", {}).get(name)
        return metrics.MetricWriter(path, self._step, alike_until=alike_until, noted=noted)

    def _compiled(self) -> Any:
        """The step, compiled: done before the clock starts, so that speeds and ETA are of steps alone."""
        fns = self._run.fns
        started = time.monotonic()
        compiled = fns.train.lower(fns.state, fns.batch, fns.measured).compile()
        self._progress.say(f"compiled the step in {time.monotonic() - started:.0f} s")
        self._clock.start()
        return compiled

    def train(self, stop: signals.StopRequest, held: lock.Check) -> dict[str, Any]:
        """The steps that are left. held: raises once another training has taken the workdir over."""
        try:
            self._steps_left(stop, held)
        except health.NonFiniteError as error:
            self._sink.alert("not finite", str(error))
            raise
        except signals.Stopped as stopped:
            self._sink.alert("stopped", f"after step {stopped.step}; the same command continues")
            raise
        return self._writer.last

    def _steps_left(self, stop: signals.StopRequest, held: lock.Check) -> None:
        total = self._run.total_steps
        if self._step >= total:
            return
        step_function = self._compiled()
        self._evaluate_start()
        loss = schema.value(self._run.config, "loss")
        batches = feed.batches(self._run.source, self._run.fns, self._step, loss=loss)
        in_flight: collections.deque[jax.Array] = collections.deque()
        while self._step < total:
            with self._clock.waiting():
                batch = next(batches)
            outputs = self._update(step_function, batch)
            in_flight.append(outputs["loss"])
            if len(in_flight) > _IN_FLIGHT:
                in_flight.popleft().block_until_ready()
            held()
            stopping = stop.at(self._step) and self._step < total
            self._after_step(outputs, save=stopping)
            if stopping:
                self._progress.say(f"stopped after step {self._step}; saved, the same command continues")
                raise signals.Stopped(self._step)
        self._check_health()

    def _evaluate_start(self) -> None:
        """Before step 1, what wants to run there; not again when a run is taken up that got no further."""
        if self._step or self._writer.last:
            return
        with self._clock.paused():
            for name, value in self._evals.run_at_start(self._state):
                self._writer.measure(name, value)
            row = self._writer.write(0)
            if row:
                self._sink.log(row)
                self._progress.row(row)

    def _update(self, step_function: Any, batch: Any) -> dict[str, Any]:
        """One step; returns its outputs, on the device."""
        step = self._step = self._step + 1
        self._profile.before(step)
        self._state, outputs = step_function(self._state, batch, np.asarray(self._fires(step, self._every.log)))
        self._profile.after(step, outputs["loss"])
        self._monitor.add(step, outputs, self._last_checkpoint)
        self._clock.step()
        return outputs

    def _after_step(self, outputs: dict[str, Any], save: bool) -> None:
        """Logs, evaluates and saves where it is time to, in this order: what is saved has its row complete."""
        step = self._step
        self._progress.advance(step)
        if self._fires(step, self._every.log):
            self._measure_training(outputs)
        with self._clock.paused():
            for name, value in self._evals.run(step, self._state):
                self._writer.measure(name, value)
            row = self._writer.write(step)
            if row:
                self._sink.log(row)
                self._progress.row(row)
            if save or self._saves(step):
                self._save(wait=save or step == self._run.total_steps)

    def _measure_training(self, outputs: dict[str, Any]) -> None:
        run, step = self._run, self._step
        self._check_health()
        outputs = jax.device_get({key: outputs[key] for key in ("loss", "measured", "atoms")})
        of_sizes = self._measure_sizes(outputs["atoms"])
        self._measure_atoms(outputs["atoms"])
        seen = self._seen_until_now()
        values = {
            "training_loss": outputs["loss"],
            "train/loss": outputs["loss"],
            **outputs["measured"],
            **of_sizes,
            **{name: schedule(step - 1) for name, schedule in run.schedules.items()},
            "examples_seen": seen.total,
            "progress": step / run.total_steps,
            "epoch": seen.epochs,
            **getattr(run.source, "counts", {}),
            **self._clock.report(),
        }
        for name, value in values.items():
            self._writer.measure(name, value)

    def _measure_atoms(self, norms: dict[str, dict[str, np.ndarray]]) -> None:
        """Norms of single atoms, into a file of their own."""
        table, period = self._run.table, atom_norms.period(self._every.log, self._run.total_steps)
        if norms and table is not None and self._fires(self._step, period):
            predicted = {f"predicted_{atom_norms.SIZE}": self._sizes.predicted} if self._sizes.predicted else {}
            for name, of_atoms in (norms | predicted).items():
                self._atom_writer.measure_list(name, atom_norms.listed(of_atoms, table))
            self._atom_writer.write(self._step)

    def _seen_until_now(self) -> examples.Seen:
        return self._seen.at(self._step, self._run.config.input.batch_size, self._run.data_size)

    @property
    def _last_checkpoint(self) -> int | None:
        return self._checkpoints.latest if self._checkpoints else None

    def _measure_sizes(self, of_atoms: dict[str, dict[str, np.ndarray]]) -> dict[str, float]:
        """Measured and predicted sizes; says where they part."""
        values, warnings = self._sizes.measure(self._step, of_atoms[atom_norms.SIZE]) if of_atoms else ({}, [])
        for warning in warnings:
            self._progress.say(warning)
        return values

    def _check_health(self) -> None:
        self._monitor.check(self._last_checkpoint)

    def _save(self, wait: bool) -> None:
        if self._checkpoints is None:
            return
        self._check_health()
        health.check_state(self._state, self._step, self._last_checkpoint)
        notes = {
            "data_position": self._step,
            "core_seconds": self._clock.core_seconds,
            "wandb_id": self._sink.id,
            "sizes": self._sizes.notes,
            "rewound": self._begun.rewound,
            "rows": {run_files.METRICS: self._writer.note(), run_files.ATOM_NORMS: self._atom_writer.note()},
            **self._seen_until_now().note(),
        }
        self._checkpoints.save(self._step, self._state, notes)
        if wait:
            self._checkpoints.wait()

    def _fires(self, step: int, every: int) -> bool:
        return optim.fires(step, every, self._run.total_steps)

    def _saves(self, step: int) -> bool:
        return any(optim.fires(step, every, self._run.total_steps, first=False) for every in self._saving)

    @property
    def _saving(self) -> tuple[int, int]:
        """Periods of checkpoints."""
        return self._every.save, self._every.keep


def _open_checkpoints(
    folder: epath.Path | None, keep_every: int, stack: contextlib.ExitStack
) -> checkpoint.Checkpoints | None:
    if folder is None:
        return None
    return stack.enter_context(checkpoint.Checkpoints(folder / run_files.CHECKPOINTS, keep_every))


def _clock(run: setup.Run, core_seconds: float) -> throughput.Clock:
    devices = run.fns.mesh.devices
    forward = functools.partial(run.model.apply, train=False)
    step_flops = flops.training_flops(
        forward, {"params": run.fns.state.params}, jax.eval_shape(losses.inputs, run.fns.batch)
    )
    return throughput.Clock(
        run.config.input.batch_size, devices.size, step_flops, throughput.peak(devices.flat[0]), core_seconds
    )
