"""Evaluators by name, as `config.evals` has them, each with the steps at which it runs."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jax.sharding import Mesh

from big_vision_dual.core.errors import did_you_mean
from big_vision_dual.train import optim
from big_vision_dual.train.evaluators.batches import Source, SourceFactory
from big_vision_dual.train.fields import EVALUATORS, SCHEDULING
from big_vision_dual.train.optim import arguments, durations

__all__ = ["EVALUATORS", "Scheduled", "Source", "SourceFactory", "make"]


@dataclasses.dataclass(frozen=True)
class Scheduled:
    """An evaluator, and when it runs: every `every` steps, the last and, unless `skip_first`, the first.

    at_start: also before the first step, on what the training starts from.
    """

    name: str
    evaluator: Any
    every: int
    prefix: str
    skip_first: bool
    at_start: bool

    def due(self, step: int, total_steps: int) -> bool:
        """Whether it runs after `step` (counted from 1)."""
        return optim.fires(step, self.every, total_steps, first=not self.skip_first)

    def run(self, params: Any, step: int) -> Iterator[tuple[str, float]]:
        """(prefixed metric name, value) pairs of the parameters after `step`."""
        told = {"step": step} if "step" in inspect.signature(self.evaluator.run).parameters else {}
        for metric, value in self.evaluator.run(params, **told):
            yield f"{self.prefix}{metric}", value


def make(
    evals: Mapping[str, Any],
    predict_fns: Mapping[str, Callable[..., Any]],
    source_factory: SourceFactory,
    mesh: Mesh,
    *,
    batch_size: int,
    total_steps: int | None = None,
    data_size: int | None = None,
    workdir: os.PathLike[str] | None = None,
) -> list[Scheduled]:
    """The evaluators of `config.evals`, {name: mapping}.

    Keys of each: type (default: its name; one of `EVALUATORS` or the dotted name of a module with an
    Evaluator), pred (a key of `predict_fns`, default 'predict'), prefix (default 'name/'), skip_first, at_start,
    cache ('none', 'raw' or 'final', see `data.evaluation`),
    log_{steps,epochs,examples,percent}, and the keyword arguments of that Evaluator.

    predict_fns: {name: (params, batch) -> (logits, out)}; 'mean' needs one that gives {metric: (B,) values}.
    source_factory: (data, pp_fn, global batch size) -> `Source`.
    batch_size, total_steps, data_size: of training, to turn epochs and shares into steps; batch_size is also
      the evaluation's where it names none. workdir: of the run, for an Evaluator that has this keyword; one whose
      `run` has the keyword `step` is told the step.
    """
    sizes, given = (data_size, batch_size, total_steps), {"mesh": mesh, "workdir": workdir}
    return [_make_one(name, spec, predict_fns, source_factory, given, sizes) for name, spec in evals.items()]


def _make_one(
    name: str,
    spec: Mapping[str, Any],
    predict_fns: Mapping[str, Callable[..., Any]],
    source_factory: SourceFactory,
    given: Mapping[str, Any],
    sizes: tuple[int | None, int, int | None],
) -> Scheduled:
    what = f"config.evals.{name}"
    kind, predict = spec.get("type", name), spec.get("pred", "predict")
    if predict not in predict_fns:
        raise ValueError(f"{what}.pred={predict!r}; possible: {', '.join(sorted(predict_fns))}.")
    options = {"batch_size": sizes[1], **{key: spec[key] for key in spec if key not in SCHEDULING}}
    factory = functools.partial(source_factory, cache=spec["cache"]) if spec.get("cache") else source_factory
    evaluator = _module(kind, what).Evaluator
    options |= {"predict_fn": predict_fns[predict], "source_factory": factory, "mesh": given["mesh"]}
    if "workdir" in inspect.signature(evaluator).parameters:
        options["workdir"] = given["workdir"]
    arguments.check(evaluator, options, f"{what} ({kind})")
    every = durations.steps("log", spec, *sizes)
    return Scheduled(name, evaluator(**options), every, spec.get("prefix", f"{name}/"), spec.get("skip_first", False),
                     spec.get("at_start", False))  # fmt: skip


def _module(kind: str, what: str) -> Any:
    if "." in kind:
        return importlib.import_module(kind)
    if kind not in EVALUATORS:
        near = did_you_mean(kind, EVALUATORS)
        raise ValueError(
            f"{what}.type={kind!r}{near}; possible: {', '.join(EVALUATORS)}, "
            "or the dotted name of a module with an Evaluator."
        )
    return importlib.import_module(f"{__name__}.{kind}")
