"""Do the weights grow? Long trainings that differ in the table, at the learning rate of the first attempt."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from big_vision_dual.lab.studies import grid, settings, sweep
from big_vision_dual.lab.studies.results import Record, Results
from big_vision_dual.models import arch

LR = 0.05  # the first attempt's, see docs/first_attempt.md; its momentum .95 and lack of a warm-up are `dualize`'s too
COMMON = {"wd_mults": [[".*", 1.0]]}  # on all leaves
# The first attempt divides the mean over n tokens by n: S/16 has 196, the study 16, which would weigh less.
AS_196_TOKENS = {"target_norm_scale": [["(embedding|Transformer)/.*", 196 / 16]]}
CONVENTIONS: dict[str, Any] = {
    "lr": LR, "norms.shared_layer_norms": False, "norms.biases_per_head": False, **AS_196_TOKENS,
}  # fmt: skip
DIFFERENCES: dict[str, dict[str, Any]] = {
    "shared LayerNorms": {"norms.shared_layer_norms": True},
    "biases per head": {"norms.biases_per_head": True},
    "1/3 after out": {"model.scaling": {**dataclasses.asdict(arch.DUAL), "attention_out_at": "output"}},
    "zero head": {"model.head_zeroinit": True},
    "wd .005": {"wd": 0.005},
}
"""What the first attempt's code did besides its conventions, each alone and then all together."""
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "AdamW, dual architecture": ("adamw_dual", {"lr": 2.0**-8}),
    "well-normed": ("dualize", {"lr": LR}),
    "conventions with a scale floor": ("dualize_first_attempt", {**CONVENTIONS, "optax.scale_floor": True}),
    "conventions": ("dualize_first_attempt", CONVENTIONS),
    **{f"conventions, {name}": ("dualize_first_attempt", CONVENTIONS | fields) for name, fields in DIFFERENCES.items()},
    "all that its code did": (
        "dualize_first_attempt", CONVENTIONS | {k: v for fields in DIFFERENCES.values() for k, v in fields.items()}
    ),
}  # fmt: skip


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
            grid.replace(settings.apply(setting, base), {**COMMON, **fields}),
            {"seed": range(seeds)},
            point={"run": name},
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
