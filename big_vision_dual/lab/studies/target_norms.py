"""The target norms of a trial: of well-normed, seed or flat tables, scaled where the config says so."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from big_vision_dual.core.tables import Row, TargetNormTable
from big_vision_dual.lab.studies.settings import DUALIZE
from big_vision_dual.models import norm_trees


def table_for(config: Mapping[str, Any]) -> TargetNormTable | None:
    """The table of a dualized trial, None for any other.

    config.norms as everywhere, and besides conventions='flat': every atom has the mean target norm of
    the well-normed table, so that a learning rate means much the same.
    config.target_norm_scale: ordered [regex, factor] pairs; the first that matches a row's whole path counts.
    """
    if config["optax_name"] != DUALIZE:
        return None
    norms = dict(config.get("norms") or {})
    flat = norms.get("conventions") == "flat"
    table = norm_trees.table_for({**config, "norms": {**norms, "conventions": "well_normed"} if flat else norms})
    rows = _flattened(table.rows) if flat else table.rows
    rules = [*(config.get("target_norm_scale") or ()), (".*", 1.0)]
    return dataclasses.replace(table, norms=norms, rows=tuple(_scaled(row, rules) for row in rows))


def of(config: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """{row.key: target norm, a float32 scalar or a vector over stacked layers} of a dualized trial."""
    table = table_for(config)
    assert table is not None, f"target norms of a trial with optax_name {config['optax_name']}"
    return {row.key: np.asarray(row.target_norm, np.float32) for row in table.rows}


def _flattened(rows: tuple[Row, ...]) -> tuple[Row, ...]:
    mean = float(np.mean(np.concatenate([np.atleast_1d(row.target_norm) for row in rows])))
    return tuple(dataclasses.replace(row, target_norm=_times(row.target_norm, 0.0, mean)) for row in rows)


def _scaled(row: Row, rules: list) -> Row:
    factor = next(factor for pattern, factor in rules if re.fullmatch(pattern, row.path))
    return dataclasses.replace(row, target_norm=_times(row.target_norm, factor))


def _times(value: float | tuple[float, ...], factor: float, plus: float = 0.0) -> float | tuple[float, ...]:
    """factor * value + plus, of a number or of each of a tuple's."""
    return tuple(factor * v + plus for v in value) if isinstance(value, tuple) else factor * value + plus
