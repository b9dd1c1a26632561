"""A table with every kind of atom and of layout, all dimensions unequal, and gradients for it."""

from __future__ import annotations

import re

import numpy as np
import pytest

from big_vision_dual.core import trees
from big_vision_dual.core.tables import Row, TargetNormTable

PER_LAYER = (0.1, 0.2, 0.4)  # target norms of the three stacked layers


def _row(path, atom, shape, fan_in, fan_out, target_norm, batch=(), part=None):
    ones = tuple(1.0 for _ in target_norm) if isinstance(target_norm, tuple) else 1.0
    return Row(path, atom, fan_in, fan_out, batch, shape, ones, ones, target_norm, part)


ROWS = (
    _row("patch/kernel", "Linear", (2, 3, 4, 11), (0, 1, 2), (3,), 0.03),
    _row("attention/query/kernel", "Linear", (13, 3, 7), (0,), (1, 2), 0.3),
    _row("attention/query/bias", "Bias", (3, 7), (), (0, 1), 0.7),
    _row("attention/out/kernel", "Linear", (3, 7, 13), (0, 1), (2,), 0.2),
    _row("in_proj/weight", "Linear", (9, 6), (1,), (0,), 0.5, part=(0, 0, 9)),  # torch layout, (out, in)
    _row("in_proj/weight", "Linear", (8, 6), (1,), (0,), 0.6, part=(0, 9, 17)),
    _row("mixer/in_proj/kernel", "Linear", (15, 10), (0,), (1,), 0.5, part=(1, 0, 10)),
    _row("mixer/in_proj/kernel", "MaxLinear", (15, 3), (0,), (1,), 0.4, part=(1, 10, 13)),
    _row("conv/kernel", "DepthwiseConv", (4, 1, 10), (0,), (1, 2), 0.9),
    _row("embed/embedding", "Embed", (12, 5), (0,), (1,), 0.8),
    _row("norm/scale", "Scale", (11,), (), (0,), 0.25),
    _row("mixer/A_log", "Rate", (5, 4), (), (0, 1), 0.05),
    _row("layers/query/kernel", "Linear", (3, 13, 2, 7), (1,), (2, 3), PER_LAYER, (0,)),
    _row("layers/mlp/kernel", "Linear", (3, 7, 20), (1,), (2,), PER_LAYER, (0,)),
    _row("layers/conv/kernel", "DepthwiseConv", (3, 4, 6), (1,), (2,), PER_LAYER, (0,)),
    _row("layers/mlp/bias", "Bias", (3, 20), (), (1,), PER_LAYER, (0,)),
    _row("layers/norm/scale", "Scale", (3, 9), (), (1,), PER_LAYER, (0,)),
    _row("banks/kernel", "Linear", (5, 2, 8), (0,), (2,), 0.15, (1,)),  # a batch axis in the middle
    _row("frozen/kernel", "Linear", (13, 21), (0,), (1,), 0.0),  # mass 0
)


def normal(table: TargetNormTable, seed: int = 0):
    """A tree of standard normal float32 arrays with the table's shapes."""
    rng = np.random.default_rng(seed)
    leaves = {}
    for path, rows in table.by_path().items():
        parts = [rng.standard_normal(row.shape).astype(np.float32) for row in rows]
        leaves[path] = np.concatenate(parts, rows[0].slice[0]) if rows[0].slice else parts[0]
    return trees.unflatten(leaves)


def make_table(rows=ROWS) -> TargetNormTable:
    return TargetNormTable("test", {}, (2, 3, 4), {}, 1.0, 1.0, tuple(rows))


@pytest.fixture(scope="session")
def table() -> TargetNormTable:
    return make_table()


@pytest.fixture(scope="session")
def gradients(table):
    return normal(table)


@pytest.fixture(scope="session")
def few() -> TargetNormTable:
    """One row or two per kind of atom, for tests of options: quick to compile."""
    paths = ("attention/query/bias", "in_proj/weight", "norm/scale", "layers/mlp/kernel", "layers/mlp/bias")
    return make_table(row for row in ROWS if row.path in paths)


@pytest.fixture(scope="session")
def random_tree():
    """(table, seed) -> tree."""
    return normal


@pytest.fixture(scope="session")
def table_of():
    """rows -> table."""
    return make_table


@pytest.fixture(scope="session")
def stacked():
    """Table of a loop of blocks -> table of the same blocks scanned: leaves and target norms stacked on axis 0."""

    def stack(table: TargetNormTable) -> TargetNormTable:
        blocks: dict[str, list[Row]] = {}
        others = []
        for row in table.rows:
            match = re.match(r"(.*encoderblock)_\d+/(.*)", row.path)
            if match:
                blocks.setdefault("/".join(match.groups()), []).append(row)
            else:
                others.append(row)
        return make_table([*others, *(_stacked_row(path, rows) for path, rows in blocks.items())])

    return stack


def _stacked_row(path: str, rows: list[Row]) -> Row:
    row = rows[0]
    fan_in, fan_out = (tuple(axis + 1 for axis in axes) for axes in (row.fan_in, row.fan_out))
    target_norms = tuple(row.target_norm for row in rows)
    return _row(path, row.atom, (len(rows), *row.shape), fan_in, fan_out, target_norms, (0,))
