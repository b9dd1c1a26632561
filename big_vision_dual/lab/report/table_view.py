"""A target_norm table for people: a grid of layers by atoms, a picture of it, and differences of two tables."""

from __future__ import annotations

import dataclasses
import math
import os
import re

import rich.box
import rich.console
import rich.table

from big_vision_dual.core.tables import Row, TargetNormTable
from big_vision_dual.lab.report import pictures

_FOLDED = 20  # characters of a path in a narrow terminal
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
        view.add_column("\n".join(columns), justify="right", no_wrap=True)
    for index, layer in enumerate(arranged.layers):
        view.add_row(layer, *("" if v[index] is None else f"{v[index]:.4g}" for v in merged))
    return view


def leaves(table: TargetNormTable) -> rich.table.Table:
    """One line a leaf, all fields."""
    view = rich.table.Table(title=_title(table))
    view.add_column("leaf", overflow="fold")
    for column in ("atom", "shape", "mass", "sensitivity", "target_norm"):
        view.add_column(column, no_wrap=True)
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
    pictures.save(figure, path)


@dataclasses.dataclass(frozen=True)
class Difference:
    """Leaves of two tables: target-norm ratios b/a, largest |log| first, the leaves only one has, and other shapes."""

    ratios: tuple[tuple[str, float, float], ...]  # key, target norm in a, in b
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    shapes: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]  # key, shape in a, in b

    @property
    def same(self) -> bool:
        return not (self.only_a or self.only_b or self.shapes) and all(a == b for _, a, b in self.ratios)


def difference(a: TargetNormTable, b: TargetNormTable) -> Difference:
    """Compares leaf by leaf; of stacked leaves, layer by layer."""
    in_a, in_b = _by_layer(a), _by_layer(b)
    shared = [(key, in_a[key], in_b[key]) for key in in_a if key in in_b]
    shared.sort(key=lambda entry: -abs(_log_ratio(entry[1], entry[2])))
    only_a, only_b = tuple(k for k in in_a if k not in in_b), tuple(k for k in in_b if k not in in_a)
    of_b = b.by_key()
    shapes = tuple(
        (key, row.shape, of_b[key].shape)
        for key, row in a.by_key().items()
        if key in of_b and row.shape != of_b[key].shape
    )
    return Difference(tuple(shared), only_a, only_b, shapes)


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
    view = rich.table.Table(title="target norms, largest ratio first")
    view.add_column("leaf", overflow="fold")
    for column in (a, b, "ratio"):
        view.add_column(column, justify="right", no_wrap=True)
    for key, left, right in _differing(found)[:most]:
        view.add_row(key, f"{left:.4g}", f"{right:.4g}", ratio(left, right))
    return view


def difference_text(found: Difference, a: str, b: str) -> str:
    """How many leaves differ, which only one table has, and whether the models differ in size."""
    lines = [f"{len(_differing(found))} of {len(found.ratios)} shared leaves differ in their target norm."]
    for name, only in ((a, found.only_a), (b, found.only_b)):
        lines += [f"Only in {name}: {', '.join(only[:5])}{' ...' if len(only) > 5 else ''}."] if only else []
    for key, left, right in found.shapes[:1]:
        lines.append(
            f"The tables are of models of different sizes, {len(found.shapes)} leaves have other shapes: "
            f"{key} is {left} in {a} and {right} in {b}."
        )
    return "\n".join(lines)


def _differing(found: Difference) -> list[tuple[str, float, float]]:
    return [entry for entry in found.ratios if entry[1] != entry[2]]


def ratio(a: float, b: float) -> str:
    """b over a as a person reads it: 'x37.9' or '/29.4'."""
    if not a or not b:
        return "=" if a == b else "x inf" if b else "/ inf"
    return f"x{b / a:.3g}" if b >= a else f"/{a / b:.3g}"


def fitting(view: rich.table.Table, console: rich.console.Console) -> list[rich.table.Table]:
    """The table, or where no terminal of that width can show its numbers whole, its columns over several tables."""
    first, *others = view.columns
    parts: list[list[rich.table.Column]] = [[]]
    for column in others:
        if parts[-1] and _narrowest(view, [first, *parts[-1], column], console) > console.width:
            parts.append([])
        parts[-1].append(column)
    made = [_of_columns(view, [first, *part], sparse=len(parts) > 1) for part in parts]
    made[0].title, made[-1].caption = view.title, view.caption
    return made


def _of_columns(view: rich.table.Table, columns: list[rich.table.Column], sparse: bool = False) -> rich.table.Table:
    """A table of some columns; sparse: without the rows that have nothing but their name."""
    part = rich.table.Table(box=view.box, pad_edge=view.pad_edge)
    for column in columns:
        part.add_column(column.header, justify=column.justify, no_wrap=column.no_wrap, overflow=column.overflow)
    for cells in zip(*(column.cells for column in columns), strict=True):
        if not sparse or any(cells[1:]):
            part.add_row(*cells)
    return part


def _narrowest(view: rich.table.Table, columns: list[rich.table.Column], console: rich.console.Console) -> int:
    """The width that these columns need, when the first is folded where it may be."""
    wide = console.options.update(max_width=10_000)

    def needed(some: list[rich.table.Column]) -> int:
        return console.measure(_of_columns(view, some), options=wide).maximum

    return needed(columns[1:]) + (needed(columns[:1]) if columns[0].no_wrap else _FOLDED)
