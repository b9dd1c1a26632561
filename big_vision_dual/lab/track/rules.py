"""A track: data, architecture, budgets, target and what may be tuned, read from a file `tracks/NAME.py`. No JAX."""

from __future__ import annotations

import dataclasses
import importlib.util
import pathlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from big_vision_dual.core import files
from big_vision_dual.core.errors import did_you_mean
from big_vision_dual.lab.studies import grid

OPEN = (
    "lr", "wd", "wd_mults", "lr_mults", "grad_clip_norm", "optax_name", "optax", "schedule", "norms",
    "target_norm_scale", "weight_constraint", "mup", "model.scaling", "model.head_zeroinit",
)  # fmt: skip
"""Config fields, with all below them, that an entry may change: optimizer, schedule, scaling switches."""


class TrackError(ValueError):
    """A track, an entry or a folder of results that does not fit."""


@dataclasses.dataclass(frozen=True)
class Budget:
    """steps: of a run. trials: the positions that every entry may try."""

    steps: int
    trials: int


@dataclasses.dataclass(frozen=True)
class Track:
    """The rules of a race, frozen: what changes them changes `version`.

    base: the config that entries change in the fields `OPEN`; its seed, durations and data are the track's.
    budgets: each trained with its own schedule, and tuned from what the one before found.
    train, held_out, test: splits of base.input.data.name.
    tuning_seeds: a trial is the mean held-out loss over them. final_seeds: of the runs at the best position.
    references: entries of which the best mean held-out loss is the target. entries: of the leaderboard.
    points: of the curves.
    """

    name: str
    version: int
    base: grid.Config
    budgets: Mapping[str, Budget]
    train: str
    held_out: str
    test: str
    tuning_seeds: tuple[int, ...]
    final_seeds: tuple[int, ...]
    references: tuple[str, ...]
    entries: tuple[str, ...]
    points: int = 20

    def __post_init__(self) -> None:
        if common := set(self.tuning_seeds) & set(self.final_seeds):
            raise TrackError(f"track {self.name}: seeds {sorted(common)} are both for tuning and for the final runs.")

    @property
    def digest(self) -> str:
        """Of all of its rules but who takes part: results of tracks with another one are not comparable."""
        return grid.digest({**dataclasses.asdict(self), "entries": ()})

    def budgets_until(self, last: str | None) -> Mapping[str, Budget]:
        """The budgets up to one of them, in order; all for None. Raises `TrackError` for a name that is none."""
        if last is not None and last not in self.budgets:
            possible = ", ".join(self.budgets)
            raise TrackError(f"track {self.name} has no budget {last!r}{did_you_mean(last, self.budgets)}: {possible}.")
        names = list(self.budgets)
        return {name: self.budgets[name] for name in names[: names.index(last) + 1 if last else None]}

    def config(self, entry: grid.Config, fields: Mapping[str, Any], budget: str, seed: int) -> grid.Config:
        """One run's config: an entry's, with tuned fields."""
        return grid.replace(entry, {**fields, "total_steps": self.budgets[budget].steps, "seed": seed})


def load(name: str) -> Track:
    """The track of a shipped name ('digits') or of a path; its file defines TRACK. Raises `TrackError`."""
    shipped = files.shipped("tracks")
    path = pathlib.Path(name) if name.endswith(".py") else shipped / f"{name}.py"
    if not path.is_file():
        known = sorted(file.stem for file in shipped.glob("*.py"))
        raise TrackError(
            f"no track {name!r}{did_you_mean(name, known)}; possible: {', '.join(known)}, or a path to a Python file "
            "that defines TRACK."
        )
    track = getattr(module(path), "TRACK", None)
    if not isinstance(track, Track):
        raise TrackError(f"{path} defines no TRACK = rules.Track(...).")
    return track


def module(path: pathlib.Path) -> ModuleType:
    """A Python file, run. Raises `TrackError` for a missing one."""
    spec = importlib.util.spec_from_file_location(f"track_{path.stem}", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise TrackError(f"{path} is no Python file.")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def is_open(field: str) -> bool:
    """Whether entries may change a dotted config field."""
    return any(field == name or field.startswith(f"{name}.") for name in OPEN)


def changed(base: Mapping[str, Any], config: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The dotted fields in which two configs differ, down to the highest one that is `OPEN` or no mapping."""
    found = []
    for name in sorted({*base, *config}):
        ours, theirs, field = base.get(name), config.get(name), f"{prefix}{name}"
        if isinstance(ours, Mapping) and isinstance(theirs, Mapping) and not is_open(field):
            found += changed(ours, theirs, f"{field}.")
        elif ours != theirs:
            found.append(field)
    return found
