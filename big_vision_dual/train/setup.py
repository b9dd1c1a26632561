"""From a config to the parts of a run: data, model, table, optimizer, step."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import optax

from big_vision_dual import models
from big_vision_dual.core.tables import TargetNormTable
from big_vision_dual.models import init, norm_trees
from big_vision_dual.train import data, optim, schema, sharding, step
from big_vision_dual.train.optim import Schedule, course
from big_vision_dual.train.optim.course import Course


@dataclasses.dataclass(frozen=True)
class Run:
    """What a config stands for.

    table: target norms, None where neither the optimizer nor the metrics need them.
    tx: the optimizer, as `fns` has it.
    course: predicted sizes of the weights, where they are measured and a formula is known.
    data_size: examples of an epoch. schedules: {'global_schedule'...: step -> factor}.
    """

    config: Any
    source: data.Source
    model: Any
    table: TargetNormTable | None
    course: Course | None
    fns: step.StepFns
    tx: optax.GradientTransformation
    schedules: dict[str, Schedule]
    data_size: int
    total_steps: int

    def steps(self, prefix: str, config: Any = None, default: int | None = None) -> int:
        """The duration `prefix` of `config` (default: the run's), in steps."""
        config = self.config if config is None else config
        return optim.steps(prefix, config, self.data_size, self.config.input.batch_size, self.total_steps, default)


def prepare(config: Any, source: data.Source | None = None, devices: Any = None) -> Run:
    """Reads the data's size, builds everything else as shapes; no parameter is allocated.

    source: training data in place of `config.input.data`. devices: default all.
    Raises what the parts raise: ConfigError, DataError, TableError, ShardingError, ValueError.
    """
    schema.check(config, whole=True)
    mesh = sharding.make_mesh(schema.value(config, "mesh"), devices)
    source = source or data.make(
        config.input, seed=schema.value(config, "seed"), process_index=jax.process_index(),
        process_count=jax.process_count(), pp_modules=config.get("pp_modules") or (),
    )  # fmt: skip
    config = _with_shape(config, source)
    data.check_classes(source, config.num_classes)
    batch_size = config.input.batch_size
    total_steps = optim.steps("total", config, source.num_examples, batch_size)
    model = models.of(config)
    params = jax.eval_shape(functools.partial(init.params, config, model))
    measured = schema.value(config, "log_atom_norms")
    table = norm_trees.table_for(config, params) if measured or optim.needs_table(config) else None
    sizes = {"total_steps": total_steps, "batch_size": batch_size, "data_size": source.num_examples}
    tx, schedules = optim.make(config, params, table=table, **sizes)
    fns = step.make(config, model, tx, mesh, table=table if measured else None)
    predicted = course.make(config, table, **sizes) if measured and table is not None else None
    return Run(config, source, model, table, predicted, fns, tx, schedules, source.num_examples, total_steps)


def _with_shape(config: Any, source: data.Source) -> Any:
    """The config, with the input shape of its data where it names none."""
    if config.get("input_shape") is not None:
        return config
    config = config.copy_and_resolve_references()
    with config.unlocked(), config.ignore_type():
        config.input_shape = data.input_shape(source)
    return config
