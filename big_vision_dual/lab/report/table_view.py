"""A target_norm table for people: a grid of layers by atoms, a picture of it, and differences of two tables."""

from __future__ import annotations

import dataclasses
import math
import os
import re

import rich.box
import rich.table

from big_vision_dual.core.tables import Row, TargetNormTable

_LAYER = re.compile(r"(.*?)(?:_(\d+))/(.*)")
_ABBREVIATIONS = {
    "MultiHeadDotProductAttention_0/": "", "MlpBlock_0/": "", "LayerNorm_": "norm_", "kernel": "W", "bias": "b",
    "scale": "g", "Dense_": "mlp_",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Grid:
    """Target norms arranged: layers[i] has values[i][column], None where a layer lacks the atom."""

    layers: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]


def arrange(table: TargetNormTable) -> Grid:
    """Layers (blocks, and every other module) by atoms; scan-stacked leaves are unfolded into their layers."""
    found: dict[str, dict[str, float]] = {}
    for row in table.rows:
        for layer, column, value in cells(row):
            found.setdefault(layer, {})[column] = value
    columns = tuple(dict.fromkeys(column for layer in found.values() for column in layer))
    return Grid(
        tuple(found), columns, tuple(tuple(layer.get(column) for column in columns) for layer in found.values())
    )


def cells(row: Row) -> list[tuple[str, str, float]]:
    """(layer, column of the grid, target norm) of a row: one for each layer that it stacks."""
    path = row.key
    if isinstance(row.target_norm, tuple):
        layer, _, atom = path.removeprefix("Transformer/").partition("/")
        return [(f"{layer}_{i}", _short(atom), value) for i, value in enumerate(row.target_norm)]
    numbered = _LAYER.fullmatch(path.removeprefix("Transformer/"))
    if numbered and "/" in numbered[3]:
        return [(f"{numbered[1]}_{numbered[2]}", _short(numbered[3]), row.target_norm)]
    layer, _, atom = path.rpartition("/")
    return [(layer.removeprefix("Transformer/") or atom, _short(atom) if layer else "", row.target_norm)]


def _short(atom: str) -> str:
    for long, short in _ABBREVIATIONS.items():
        atom = atom.replace(long, short)
    return atom


def grid(table: TargetNormTable) -> rich.table.Table:
    """The grid for a terminal; columns with equal values in every layer that has them are merged."""
    arranged = arrange(table)
    merged: dict[tuple[float | None, ...], list[str]] = {}
    for index, column in enumerate(arranged.columns):
        merged.setdefault(tuple(values[index] for values in arranged.values), []).append(column)
    view = rich.table.Table(
        title=_title(table),
        caption=f"target_norm of {len(table.rows)} leaves (W kernel, b bias, g gain)",
        box=rich.box.SIMPLE,
        pad_edge=False,  # without rules between columns a ViT's table fits 80 characters
    )
    view.add_column("layer", no_wrap=True)
    for columns in merged.values():
        view.add_column("\n".join(columns), justify="right")
    for index, layer in enumerate(arranged.layers):
        view.add_row(layer, *("" if v[index] is None else f"{v[index]:.4g}" for v in merged))
    return view


def leaves(table: TargetNormTable) -> rich.table.Table:
    """One line a leaf, all fields."""
    view = rich.table.Table(title=_title(table))
    view.add_column("leaf", overflow="fold")
    for column in ("atom", "shape", "mass", "sensitivity", "target_norm"):
        view.add_column(column)
    for row in table.rows:
        numbers = (_range(value) for value in (row.mass, row.sensitivity, row.target_norm))
        view.add_row(row.key, row.atom, "x".join(map(str, row.shape)), *numbers)
    return view


def _title(table: TargetNormTable) -> str:
    name = f"{table.model_name} {table.model.get('variant', '')}".strip()
    conventions = table.norms.get("conventions")
    return f"{name}, {conventions}: mass {table.mass:g}, sensitivity {table.sensitivity:.6g}"


def _range(value: float | tuple[float, ...]) -> str:
    if isinstance(value, float | int):
        return f"{value:.4g}"
    return f"{min(value):.4g} .. {max(value):.4g}" if min(value) != max(value) else f"{value[0]:.4g}"


def plot(table: TargetNormTable, path: str | os.PathLike[str]) -> None:
    """Draws layers by atoms with a logarithmic colour scale."""
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    arranged = arrange(table)
    values = [[value if value else math.nan for value in layer] for layer in arranged.values]
    figure = Figure(figsize=(3 + 0.42 * len(arranged.columns), 2 + 0.3 * len(arranged.layers)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(values, norm=LogNorm(), cmap="viridis", aspect="auto")
    axes.set_xticks(range(len(arranged.columns)), arranged.columns, rotation=60, ha="right")
    axes.set_yticks(range(len(arranged.layers)), arranged.layers)
    axes.set_title(_title(table))
    figure.colorbar(image, label="target norm")
    figure.savefig(path, dpi=120)


@dataclasses.dataclass(frozen=True)
class Difference:
    """Leaves of two tables: target-norm ratios b/a, largest |log| first, and the leaves only one has."""

    ratios: tuple[tuple[str, float, float], ...]  # key, target norm in a, in b
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]

    @property
    def same(self) -> bool:
        return not (self.only_a or self.only_b) and all(a == b for _, a, b in self.ratios)


def difference(a: TargetNormTable, b: TargetNormTable) -> Difference:
    """Compares leaf by leaf; of stacked leaves, layer by layer."""
    in_a, in_b = _by_layer(a), _by_layer(b)
    shared = [(key, in_a[key], in_b[key]) for key in in_a if key in in_b]
    shared.sort(key=lambda entry: -abs(_log_ratio(entry[1], entry[2])))
    return Difference(tuple(shared), tuple(k for k in in_a if k not in in_b), tuple(k for k in in_b if k not in in_a))


def _by_layer(table: TargetNormTable) -> dict[str, float]:
    values: dict[str, float] = {}
    for row in table.rows:
        if isinstance(row.target_norm, tuple):
            values.update({f"{row.key}[layer {i}]": value for i, value in enumerate(row.target_norm)})
        else:
            values[row.key] = row.target_norm
    return values


def _log_ratio(a: float, b: float) -> float:
    if a == b:
        return 0.0
    return math.log(b / a) if a > 0 and b > 0 else math.inf


def difference_table(found: Difference, a: str, b: str, most: int) -> rich.table.Table:
    """The differing leaves for a terminal, the largest ratio first."""
    differing = [entry for entry in found.ratios if entry[1] != entry[2]]
    caption = f"{len(differing)} of {len(found.ratios)} shared leaves differ"
    for name, only in ((a, found.only_a), (b, found.only_b)):
        caption += f"; only in {name}: {', '.join(only[:5])}{' ...' if len(only) > 5 else ''}" if only else ""
    view = rich.table.Table(title="target norms, largest ratio first", caption=caption)
    view.add_column("leaf", overflow="fold")
    for column in (a, b, "ratio"):
        view.add_column(column, justify="right")
    for key, left, right in differing[:most]:
        view.add_row(key, f"{left:.4g}", f"{right:.4g}", f"{right / left:.4g}" if left else "inf")
    return view
