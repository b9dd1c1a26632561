"""Config files of an upstream Big Vision, unmodified: its names and defaults become ours.

Read off google-research/big_vision (train.py, input_pipeline.py, evaluators/common.py). What only sets how far a host
reads ahead is left to our own pipeline; what changes the result and is not here stays in the config, where the schema
refuses it by name.
"""

from __future__ import annotations

import contextlib
import logging
import pathlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from big_vision_dual.train.fields import FIELDS

_PACKAGE = "big_vision"
_LOSS = "sigmoid_xent"  # its trainer's default
_READ_AHEAD = ("num_parallel_calls", "prefetch_to_device")
_REFUSED = ("grad_clip_per_example", "optim", "weight_decay", "weight_decay_decouple")  # would change the result
_CACHES = {"none": "none", "pipeline": "none", "raw_data": "raw", "final_data": "final"}


@contextlib.contextmanager
def importable(path: pathlib.Path) -> Iterator[None]:
    """Context in which the clone that a config file lies in can be imported by it."""
    inside = [folder for folder in path.resolve().parents if folder.name == _PACKAGE]
    added = [str(inside[-1].parent)] if inside else []
    sys.path[:0] = added
    try:
        yield
    finally:
        for folder in added:
            sys.path.remove(folder)


def is_upstreams(path: pathlib.Path, module: ModuleType) -> bool:
    """Whether a config file lies in Big Vision, or imports something of it."""
    names = ("__name__" if isinstance(value, ModuleType) else "__module__" for value in vars(module).values())
    origins = (getattr(value, name, None) for value, name in zip(vars(module).values(), names, strict=True))
    imports = any(str(origin).split(".")[0] == _PACKAGE for origin in origins)
    return imports or any(folder.name == _PACKAGE for folder in path.resolve().parents)


def adapt(config: Any, upstreams: bool) -> None:
    """Gives a config, in place, our names for what Big Vision calls otherwise. upstreams: its defaults, too."""
    _drop(config, *_READ_AHEAD)
    if upstreams:
        config.loss = config.get("loss", _LOSS)
        _drop_own(config)
    _drop(config.get("input") or {}, *_READ_AHEAD)
    if (config.get("mixup") or {}).get("fold_in", 0) is None:
        del config.mixup["fold_in"]
    for evaluator in (config.get("evals") or {}).values():
        _adapt_evaluator(evaluator)


def _adapt_evaluator(evaluator: Any) -> None:
    """Big Vision caches by `cache`, or older by two flags of which the later stage wins."""
    if "." in str(evaluator.get("type")):
        return
    _drop(evaluator, *_READ_AHEAD, "prefetch")
    stages = [stage for stage in ("raw", "final") if f"cache_{stage}" in evaluator]
    chosen = [stage for stage in stages if evaluator[f"cache_{stage}"]]
    _drop(evaluator, *(f"cache_{stage}" for stage in stages))
    if stages:
        evaluator["cache"] = chosen[-1] if chosen else "none"
    elif evaluator.get("cache") in _CACHES:
        evaluator["cache"] = _CACHES[evaluator["cache"]]


def _drop_own(config: Any) -> None:
    """Leaves out values that the file keeps in its config for itself, such as those of its argument, and says so."""
    own = [name for name, value in config.items() if name not in FIELDS and isinstance(value, str | int | float | None)]
    own = [name for name in own if name not in _REFUSED]
    if own:
        logging.warning("the config file keeps %s for itself; Big Vision's trainer does not read it", ", ".join(own))
    _drop(config, *own)


def _drop(config: Any, *names: str) -> None:
    for name in names:
        if name in config:
            del config[name]
