"""Evaluates what a run left, or a weights file, without training."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

from etils import epath

from big_vision_dual.core import trees
from big_vision_dual.models import weights
from big_vision_dual.train import setup, start
from big_vision_dual.train.evals import Evals
from big_vision_dual.train.workdir import located


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What `weights` score. step: of the checkpoint; None for a weights file. metrics: named as in a run's rows."""

    weights: str
    step: int | None
    metrics: dict[str, float]


def evaluate(config: Any, workdir: epath.PathLike | None = None, only: Sequence[str] = ()) -> Evaluation:
    """Runs the evaluators of `config` on the newest checkpoint of `workdir`, or else on config.model_init.

    only: names of evaluators, default all. Nothing is written but by those that save. Raises CheckpointError for a
    workdir without a checkpoint or with another model's, WeightsError for such a file, ValueError where there is
    nothing to evaluate or to evaluate with, and what `setup.prepare` raises. Warns of leaves that are not the file's.
    """
    if not workdir and not config.get("model_init"):
        raise ValueError("nothing to evaluate; give the --workdir of a run, or --config.model_init=FILE.npz.")
    if not config.get("evals"):
        raise ValueError("config.evals is empty; give a config that has evaluators.")
    run = setup.prepare(config)
    evals = Evals(run, only, located(workdir) if workdir else None)
    if workdir:
        state, _ = start.left_by(run, workdir, f"--workdir {workdir}")
        return Evaluation(str(workdir), int(state.step), dict(evals.run_all(state)))
    _warn_of_fresh_leaves(run)
    return Evaluation(config.model_init, None, dict(evals.run_all(start.begin(run, None).state)))


def _warn_of_fresh_leaves(run: setup.Run) -> None:
    dont_load = (run.config.get("model_load") or {}).get("dont_load", ())
    fresh = weights.not_loaded(trees.flatten(run.fns.state.params), dont_load)
    if fresh:
        logging.warning(
            "%s of %s are not read but drawn at random, and so are scores that depend on them: "
            "config.model_load.dont_load is for fine-tuning. --config.model_load.dont_load='()' reads the whole file.",
            ", ".join(fresh), run.config.model_init,
        )  # fmt: skip
