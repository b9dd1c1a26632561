"""Where a trial's model is measured, and which target norms it trains with: `norm_trees.table_for`'s, or measured."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from big_vision_dual import models
from big_vision_dual.core import measured
from big_vision_dual.core.tables import TargetNormTable
from big_vision_dual.lab.studies import dataset, grid
from big_vision_dual.models import init, norm_trees
from big_vision_dual.train import losses
from big_vision_dual.train.data.drawn import DrawnSource

MEASURED = "measured"
"""`norms.conventions` of a trial whose table is measured: at initialization, of its own model and data."""
EXAMPLES, SEED = 8, 0  # of the first training batch, and of the initial values
OUTPUTS = ("logits", "features")


class Subject(NamedTuple):
    """A model's output and training loss, functions of (params, batch), and the batch to measure on."""

    apply: measured.Apply
    loss: measured.Loss
    batches: list[Mapping[str, jax.Array]]

    @classmethod
    def of(
        cls, config: Mapping[str, Any], model: Any, source: DrawnSource, *,
        examples: int = EXAMPLES, batches: int = 1, output: str = "logits",
    ) -> Subject:  # fmt: skip
        """The first `examples` of each of the first batches that a config trains on.

        output: 'logits', or 'features', what the head sees.
        """
        if output not in OUTPUTS:
            raise measured.MeasureError(f"output is {output!r}; possible: {', '.join(OUTPUTS)}.")
        train, key = losses.training(config, model), jax.random.key(0)
        data, seed = source.on_device(), np.uint32(config.get("seed") or 0)
        drawn = [jax.tree.map(lambda x: x[:examples], source.batch(data, step, seed)) for step in range(batches)]
        return cls(_output(model, output), lambda params, batch: train(params, batch, key), drawn)


def table_for(config: Mapping[str, Any]) -> TargetNormTable:
    """The table of a trial, the same for all its learning rates and seeds."""
    norms = config.get("norms") or {}
    if norms.get("conventions") != MEASURED:
        return norm_trees.table_for(config)
    same = dict.fromkeys(grid.numbers(config), 1.0) | {"seed": SEED, "norms": {**norms, "conventions": "well_normed"}}
    return _measured(json.dumps(grid.replace(config, same), sort_keys=True))


@functools.lru_cache(maxsize=64)
def _measured(text: str) -> TargetNormTable:
    config = json.loads(text)
    model = models.of(config)
    subject = Subject.of(config, model, dataset.training(config))
    params = jax.jit(lambda seed: init.params(config, model, seed))(np.uint32(SEED))
    atoms = norm_trees.build(config)
    return measured.measured_table(subject.apply, params, subject.batches[0], atoms=atoms, loss=subject.loss)


def _output(model: Any, output: str) -> measured.Apply:
    def apply(params: Any, batch: Any) -> jax.Array:
        logits, out = model.apply({"params": params}, losses.inputs(batch), train=False)
        if output == "logits":
            return logits
        found = [name for name in ("pre_logits", "norm_f") if name in out]
        if not found:
            raise measured.MeasureError(f"{type(model).__name__} names no features; its activations are {sorted(out)}.")
        return out[found[0]]

    return apply
