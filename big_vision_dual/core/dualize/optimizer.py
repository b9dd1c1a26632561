"""The usual chain around `scale_by_dualize`, from whatever says what the parameters are."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from typing import Any

import optax

from big_vision_dual.core import norms, tables, trees
from big_vision_dual.core.dualize import geometry
from big_vision_dual.core.dualize.constrain import ByRow, constrain
from big_vision_dual.core.dualize.graft import scale_by_dualize
from big_vision_dual.core.tables.schema import TargetNormTable


def dualized(
    source: TargetNormTable | norms.Module | str | os.PathLike[str] | Any,
    learning_rate: float | Callable[[Any], Any],
    *,
    momentum: Any = 0.9,
    nesterov: bool = True,
    weight_decay: Any = 0.0,
    radius: ByRow | None = None,
    **options: Any,
) -> optax.GradientTransformation:
    """An optimizer: Nesterov momentum, dual maps to the target norms, decoupled weight decay, times -learning_rate.

    source: a table, its file or name in norm_cache, a norm tree (`norms.Module`), or the parameters themselves, whose
      table is then `tables.flat(source)`.
    learning_rate: a number or a schedule of the step count.
    weight_decay: a step takes learning_rate * weight_decay off the matrices (Linear, MaxLinear, Embed and the
      convolutions); 0 for none.
    radius: in place of weight_decay: keeps each weight in the ball of that radius in its own norm, by a decay in
      proportion to its step; a number, or rules for it (`constrain`). 10 to 50 are usual.
    options: further arguments of `scale_by_dualize`. Raises `ValueError` for a weight_decay and a radius.
    """
    decays = not (isinstance(weight_decay, (int, float)) and weight_decay == 0)
    if decays and radius is not None:
        raise ValueError(f"weight_decay={weight_decay} and radius={radius} both decay the weights; give one of them.")
    table = table_of(source)
    stages = [scale_by_dualize(table, momentum=momentum, nesterov=nesterov, **options)]
    if decays:
        stages.append(optax.add_decayed_weights(weight_decay, mask=lambda params: _matrices(table, params)))
    stages.append(optax.scale_by_learning_rate(learning_rate))
    if radius is not None:
        stages.append(constrain("radius", table, rate=learning_rate, radius=radius))
    return optax.chain(*stages)


def _all_options() -> inspect.Signature:
    """Of `dualized`, with those of `scale_by_dualize` by name: for help(), and for `optax.inject_hyperparams`."""
    own = inspect.signature(dualized)
    named = {name: one for name, one in own.parameters.items() if one.kind != one.VAR_KEYWORD}
    further = inspect.signature(scale_by_dualize).parameters
    more = [one for name, one in further.items() if one.kind == one.KEYWORD_ONLY and name not in named]
    return own.replace(parameters=[*named.values(), *more])


dualized.__signature__ = _all_options()  # pyright: ignore[reportFunctionMemberAccess]


def table_of(source: Any) -> TargetNormTable:
    """The table that `source` is, names, or gives; see `dualized`."""
    if isinstance(source, norms.Module):
        return tables.build(source)
    if isinstance(source, (TargetNormTable, str, os.PathLike)):
        return tables.resolve(source)
    return tables.flat(source)


def _matrices(table: TargetNormTable, params: Any) -> Any:
    """A tree of bools: what starts at unit norm, and not at a size that means something."""
    rows = table.by_path()
    return trees.map_with_path(lambda path, _: geometry.ATOMS[rows[path][0].atom].projects_to == "sphere", params)
