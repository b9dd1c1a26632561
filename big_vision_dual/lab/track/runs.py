"""Trains single trials of a track: one compiled program for all that differ only in numbers."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from big_vision_dual import models
from big_vision_dual.lab.studies import dataset, grid
from big_vision_dual.lab.studies.program import Program
from big_vision_dual.lab.track.rules import Track, TrackError
from big_vision_dual.models import norm_trees
from big_vision_dual.train import optim
from big_vision_dual.train.data import arrays
from big_vision_dual.train.data.augment import augment_fn

_EVALUATION = 250  # images a batch at most


@dataclasses.dataclass(frozen=True)
class OnDevice:
    """The three splits of a track: what `source` draws batches from, and equal batches to evaluate."""

    source: arrays.ArraySource
    train: Mapping[str, jax.Array]
    held_out: Mapping[str, jax.Array]
    test: Mapping[str, jax.Array]

    @classmethod
    def of(cls, track: Track, where: str | None) -> OnDevice:
        """Reads the splits. where: TFDS' data_dir, or an NPZ file with arrays {train,test}_{image,label}."""
        given = dict(track.base["input"]["data"])
        if where and where.endswith(".npz"):
            given["name"] = f"array:{where}"
        elif not arrays.is_array_name(given["name"]):
            if not where:
                raise TrackError(f"track {track.name} needs --data: TFDS' data_dir of {given['name']}, or an NPZ file.")
            given["data_dir"] = where
        train, held_out, test = (
            dataset.load({**given, "split": split}, track.base) for split in (track.train, track.held_out, track.test)
        )
        settings = track.base["input"]
        source = arrays.ArraySource(train, settings["batch_size"], augment_fn(settings.get("augment") or ""), 0)
        return cls(source, source.on_device(), _batched(held_out), _batched(test))


@dataclasses.dataclass(frozen=True)
class Runner:
    """Trains trials of configs that share one program. Compiles at the first call; data stays on the device."""

    program: Program
    points: int
    data: OnDevice
    functions: Mapping[str, Callable[..., Any]]

    @classmethod
    def of(cls, config: grid.Config, points: int, data: OnDevice) -> Runner:
        """Of a trial's config and all that differ from it only in `grid.NUMBERS`, seed and target norms."""
        table = norm_trees.table_for(config) if optim.needs_table(config) else None
        program = Program(config, models.of(config), table, data.source, {})
        functions = {
            "init": jax.jit(program.init),
            "advance": jax.jit(program.advance, donate_argnums=0),
            "evaluate": jax.jit(program.evaluate),
        }
        return cls(program, points, data, functions)

    def tune(self, config: grid.Config) -> dict[str, Any]:
        """Trains; {held_out_loss, held_out_accuracy, train_loss, finite}. A diverged run is given up early."""
        state, curve = self._train(config, lambda _: {})
        return _summary(curve, self._evaluate(state, "held_out"))

    def final(self, config: grid.Config) -> tuple[dict[str, Any], float]:
        """Trains, held-out loss along the way, then reads the test set: (what `tune` gives and more, seconds a step).

        The seconds are those of the fastest part of the run: other work on the machine makes the rest slower.
        """
        clock: list[float] = []
        state, curve = self._train(config, lambda state: self._evaluate(state, "held_out"), clock)
        result = _summary(curve, self._evaluate(state, "held_out"))
        return {**result, **self._evaluate(state, "test"), "curve": curve}, min(clock[1:] or clock)

    def _train(
        self, config: grid.Config, measure: Callable[[Any], dict[str, float]], clock: list[float] | None = None
    ) -> tuple[Any, dict[str, list[float]]]:
        """(final state, {step, loss and what `measure` says: a value a point})."""
        given = self.program.numbers_of(config)
        state = self.functions["init"](given)
        edges = np.unique(np.linspace(0, self.program.total_steps, self.points + 1).round().astype(np.int32))
        curve: dict[str, list[float]] = {}
        for start, stop in itertools.pairwise(edges):
            began = time.monotonic()
            state, measured = self.functions["advance"](state, given, {"train": self.data.train}, start, stop)
            loss = float(measured["loss"])
            if clock is not None:
                clock.append((time.monotonic() - began) / int(stop - start))
            for name, value in {"step": int(stop), "loss": loss, **measure(state)}.items():
                curve.setdefault(name, []).append(value)
            if not math.isfinite(loss):
                break
        return state, curve

    def _evaluate(self, state: Any, split: str) -> dict[str, float]:
        found = self.functions["evaluate"](state, {"validation": getattr(self.data, split)})
        return {f"{split}_loss": float(found["val_loss"]), f"{split}_accuracy": float(found["val_accuracy"])}


def _summary(curve: Mapping[str, list[float]], held_out: Mapping[str, float]) -> dict[str, Any]:
    """Train loss: the mean of the last tenth of the points."""
    last = curve["loss"][-max(1, len(curve["loss"]) // 10) :]
    train_loss = float(np.mean(last))
    return {"train_loss": train_loss, **held_out, "finite": bool(np.isfinite([train_loss, *held_out.values()]).all())}


def _batched(split: arrays.Arrays) -> dict[str, jax.Array]:
    """A split as equal batches (count, size, ...), size the largest divisor of its length up to `_EVALUATION`."""
    count = len(split.labels)
    size = next(size for size in range(min(_EVALUATION, count), 0, -1) if count % size == 0)
    shaped = {"image": split.images, "label": split.labels}
    return {name: jnp.asarray(x.reshape(count // size, size, *x.shape[1:])) for name, x in shaped.items()}


class Runners:
    """A race's runners: one a program, made when first asked for."""

    def __init__(self, track: Track, where: str | None):
        self._track, self._where = track, where
        self._made: dict[str, Runner] = {}

    @functools.cached_property
    def _data(self) -> OnDevice:
        return OnDevice.of(self._track, self._where)

    def of(self, config: grid.Config) -> Runner:
        key = grid.digest(grid.static(config))
        if key not in self._made:
            self._made[key] = Runner.of(config, self._track.points, self._data)
        return self._made[key]
