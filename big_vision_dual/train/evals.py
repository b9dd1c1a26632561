"""The evaluators of `config.evals`, run on the parameters of a state."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax

from big_vision_dual.core.errors import did_you_mean
from big_vision_dual.train import data, evaluators, losses, schema
from big_vision_dual.train.setup import Run
from big_vision_dual.train.update import TrainState

_EMA = "predict_ema"


class Evals:
    """Evaluators of a run; `pred='predict_ema'` in an evaluator's config has it use the averaged parameters.

    only: names of those wanted, default all of them. workdir: where those that write do so.
    Raises ValueError for a name that config.evals does not have.
    """

    def __init__(self, run: Run, only: Sequence[str] = (), workdir: os.PathLike[str] | None = None):
        self._total_steps = run.total_steps
        specs = _chosen(run.config.get("evals") or {}, only)
        self._uses_ema = {name for name, spec in specs.items() if spec.get("pred") == _EMA}
        self._scheduled = evaluators.make(
            specs, predict_fns(run.config, run.model), _source_factory(run.config), run.fns.mesh,
            batch_size=run.config.input.batch_size, total_steps=run.total_steps, data_size=run.data_size,
            workdir=workdir,
        )  # fmt: skip

    def run(self, step: int, state: TrainState) -> Iterator[tuple[str, float]]:
        """(metric, value) of every evaluator that is due after `step`."""
        yield from self._measure((each for each in self._scheduled if each.due(step, self._total_steps)), step, state)

    def run_at_start(self, state: TrainState) -> Iterator[tuple[str, float]]:
        """(metric, value) of every evaluator that is wanted before the first step."""
        yield from self._measure((each for each in self._scheduled if each.at_start), 0, state)

    def run_all(self, state: TrainState) -> Iterator[tuple[str, float]]:
        """(metric, value) of every evaluator, due or not."""
        yield from self._measure(self._scheduled, int(state.step), state)

    def _measure(
        self, those: Iterable[evaluators.Scheduled], step: int, state: TrainState
    ) -> Iterator[tuple[str, float]]:
        for scheduled in those:
            params = state.ema_params if scheduled.name in self._uses_ema else state.params
            yield from scheduled.run(params, step)


def _chosen(specs: Mapping[str, Any], only: Sequence[str]) -> Mapping[str, Any]:
    """`specs`, cut down to the names in `only` if there are any."""
    unknown = [name for name in only if name not in specs]
    if unknown:
        near = did_you_mean(unknown[0], specs)
        raise ValueError(f"config.evals has no {unknown[0]!r}{near}; possible: {', '.join(specs) or 'none'}.")
    return {name: specs[name] for name in only or specs}


def predict_fns(config: Any, model: Any) -> dict[str, Callable[[Any, Mapping[str, jax.Array]], Any]]:
    """{'predict': (params, batch) -> (logits, out); with config.ema 'predict_ema'; 'loss': -> {'loss': (B,)}}."""
    loss = losses.get(schema.value(config, "loss"))

    def predict(params: Any, batch: Mapping[str, jax.Array]) -> Any:
        return model.apply({"params": params}, losses.inputs(batch), train=False)

    def per_example_loss(params: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        logits = predict(params, batch)[0]
        return {"loss": loss(logits, losses.labels(batch, logits.shape[-1]))}

    return {"predict": predict, "loss": per_example_loss} | ({_EMA: predict} if config.get("ema") else {})


def _source_factory(config: Any) -> evaluators.SourceFactory:
    return functools.partial(
        data.evaluation,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        pp_modules=config.get("pp_modules") or (),
    )
