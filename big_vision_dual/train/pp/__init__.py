"""Preprocessing by op strings, Big Vision's convention: `decode|resize(224)|value_range(-1, 1)`.

All randomness is stateless: an example's result depends on the op string, its seed and nothing else.
TensorFlow is imported when the first string is compiled, not before.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from typing import Any

from big_vision_dual.train.pp.parse import PreprocessError, parse
from big_vision_dual.train.pp.registry import Example, bind, known, register

__all__ = ["Example", "PreprocessError", "get_preprocess_fn", "known", "load_modules", "parse", "register"]

_OPS_HERE = tuple(f"big_vision_dual.train.pp.{name}" for name in ("ops_general", "ops_image", "ops_randaug"))
# What images need of them is in ours; an op of ops_text is refused by its name where one is used.
_BIG_VISION_MODULES = ("ops_general", "ops_image", "ops_text", "archive.randaug", "archive.autoaugment")


def load_modules(modules: Iterable[str] = ()) -> None:
    """Imports the ops of this package and those of the user's modules (`config.pp_modules`).

    Big Vision's own names of modules are accepted, so that its configs run as they are. Raises
    `PreprocessError` for a module that cannot be found.
    """
    for name in _OPS_HERE:
        importlib.import_module(name)
    for name in modules:
        if name in _BIG_VISION_MODULES:
            continue
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise PreprocessError(
                f"pp_modules names {name!r}: {error}. Give the import path of a module on PYTHONPATH."
            ) from error


def get_preprocess_fn(string: str, modules: Iterable[str] = ()) -> Callable[[Example, Any], Example]:
    """Compiles an op string to `f(example, seed)` -> example, to be used in tf.data or eagerly.

    example: {name: tensor} of one example. seed: int64[2]; each op folds its own index into it. Raises
    `PreprocessError` for an unreadable string, an unknown op or wrong arguments, before any data is read.
    """
    load_modules(modules)
    from big_vision_dual.train.pp.quiet_tf import said, tf

    steps = [bind(call) for call in parse(string)]

    @tf.autograph.experimental.do_not_convert
    def preprocess(example: Example, seed: Any) -> Example:
        for index, step in enumerate(steps):
            own_seed = tf.random.fold_in(seed, tf.constant(index, tf.int64)) if step.op.random else None
            try:
                example = step(dict(example), own_seed)
            except PreprocessError:
                raise
            except (tf.errors.OpError, TypeError, ValueError) as error:  # run eagerly, or shapes that cannot be
                raise PreprocessError(f"{step.text!r} failed: {said(error)}") from error
        return example

    return preprocess
