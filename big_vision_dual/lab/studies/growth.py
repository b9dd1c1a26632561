"""Do the weights grow? Long trainings that differ in the table, at the learning rate of the first attempt."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from big_vision_dual.lab.studies import grid, settings, sweep
from big_vision_dual.lab.studies.results import Record, Results

LR = 0.05  # the first attempt's, see docs/norms.md; its momentum .95 and absence of a warm-up are `dualize`'s too
FLOOR = {"optax.scale_floor": True}
# The seed table divides the mean over n tokens by n. S/16 has 196; this makes up for the study's 16, which weigh less.
AS_196_TOKENS = {"target_norm_scale": [["(embedding|Transformer)/.*", 196 / 16]]}
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "AdamW, dual architecture": ("adamw_dual", {"lr": 2.0**-8}),
    "well-normed": ("dualize", {"lr": LR}),
    "well-normed, twice the lr": ("dualize", {"lr": 2 * LR}),
    "seed": ("dualize_seed", {"lr": LR}),
    "flat": ("dualize_flat", {"lr": LR}),
    "well-normed, scale floor": ("dualize", {"lr": LR, **FLOOR}),
    "seed, scale floor": ("dualize_seed", {"lr": LR, **FLOOR}),
    "seed as of 196 tokens, scale floor (the first attempt)": ("dualize_seed", {"lr": LR, **FLOOR, **AS_196_TOKENS}),
}


@dataclasses.dataclass(frozen=True)
class Growth:
    """One run. ratio_SxT: l2 norm of all parameters after each of steps_T, relative to the start; seeds by steps."""

    steps_T: np.ndarray
    ratio_SxT: np.ndarray
    loss: str
    accuracy: str


def run(base: Mapping[str, Any], seeds: int, results: Results) -> dict[str, Growth]:
    """All of `RUNS`; those that differ only in their table share a program."""
    trials = [
        trial
        for name, (setting, fields) in RUNS.items()
        for trial in grid.product(
            grid.replace(settings.apply(setting, base), fields), {"seed": range(seeds)}, point={"run": name}
        )
    ]
    records, _ = sweep.run(trials, results)
    return {name: _growth([r for r in records if r["point"]["run"] == name]) for name in RUNS}


def _growth(records: list[Record]) -> Growth:
    norms_SxT = np.array([record["result"]["curve"]["l2_params"] for record in records], float)
    start_S = np.array([record["result"]["start"]["l2_params"] for record in records])
    steps_T = np.linspace(0, records[0]["config"]["total_steps"], norms_SxT.shape[1] + 1)[1:]
    return Growth(steps_T, norms_SxT / start_S[:, None], _range(records, "train_loss"), _range(records, "val_accuracy"))


def _range(records: list[Record], name: str) -> str:
    values = np.array([record["result"][name] for record in records], float)
    return f"{values.mean():.3f} ± {values.std(ddof=1) if len(values) > 1 else 0:.3f}"
