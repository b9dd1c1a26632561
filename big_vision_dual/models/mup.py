"""muP as data: the class of each parameter, its initial deviation and its multipliers under Adam.

Source: Yang et al., Tensor Programs V (arXiv 2203.03466), for Mamba the muP rules of the PyTorch project `mamba.py`.
m is the width over the base width, at which muP's learning rates are those of the standard parametrization.

| class  | what grows with the width | lr_mult | wd_mult |
|--------|---------------------------|---------|---------|
| input  | fan-out                   | 1       | 1       |
| hidden | fan-in and fan-out        | 1/m     | m       |
| output | fan-in                    | 1 with output_mult 1/m in the model, else 1/m | 1, else m |
| bias   | vectors added             | 1       | 0       |
| kept   | gains, decay rates        | 1       | 0       |

wd_mult is relative to a decay of lr * lr_mult * wd * wd_mult a step, as in AdamW; see `wd_mults` for Big Vision's.

Each family has its rows in its record, see `family.Mup`. Rule sets. `reference`: exactly mamba.py's. `strict`, for
Mamba: its dt_proj is drawn with one factor 1/sqrt(m) less, which there made Delta's input shrink with the width, and
Adam's eps is 1e-15, since 1e-8 swamps gradients of rms 1e-11. In both, the B and C slices of a fused projection, whose
fan-out does not grow, are drawn like the rest of their leaf.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from typing import Any

from big_vision_dual import models
from big_vision_dual.core import files, trees
from big_vision_dual.core.tables import io
from big_vision_dual.core.tables.schema import TableError
from big_vision_dual.models import family
from big_vision_dual.models.family import MupRow

CLASSES = ("input", "hidden", "output", "bias", "kept")
_FORMAT_VERSION = 1
_START = '{"mup": '  # of a file


@dataclasses.dataclass(frozen=True)
class MupTable:
    """The rows of one model; adam_eps is the epsilon that these rules need."""

    model_name: str
    model: Mapping[str, Any]
    base_width: int
    rules: str
    adam_eps: float
    rows: tuple[MupRow, ...]


def for_config(config: Any, params: Mapping[str, Any]) -> MupTable:
    """The table of a config's model for `config.mup = dict(base_width=..., rules='reference' | 'strict')`.

    params: the model's parameters or their shapes; only the paths are read. Raises `TableError` where there are no
    rules for the model, or where the model's own switches contradict muP.
    """
    plain = config.to_dict() if hasattr(config, "to_dict") else dict(config)  # ConfigDict, without importing it
    given = {"rules": "strict", **plain["mup"]}
    unknown = sorted(set(given) - {"rules", "base_width"})
    if unknown or "base_width" not in given:
        raise TableError(f"config.mup has keys {sorted(plain['mup'])}; possible: base_width (needed), rules.")
    return build(params, model_name=plain["model_name"], model=plain.get("model") or {}, **given)


def build(
    params: Mapping[str, Any], *, model_name: str, model: Mapping[str, Any], base_width: int, rules: str = "strict"
) -> MupTable:
    """See `for_config`. model: `config.model`."""
    known = family.of(model_name).mup
    if known is None:
        having = [name for name in models.MODELS if family.of(name).mup]
        raise TableError(
            f"no muP rules for model_name {model_name!r}; possible: {', '.join(having)}, or a module with "
            "FAMILY = Family(mup=...), see docs/your_model.md."
        )
    if rules not in known.adam_eps:
        raise TableError(f"mup.rules is {rules!r}; possible for {model_name}: {', '.join(map(repr, known.adam_eps))}.")
    patterns = [(row.path, row) for row in known.rows(model, base_width, rules)]
    matched = trees.first_match(patterns, trees.flatten(params), f"muP rules of {model_name}")
    rows = tuple(dataclasses.replace(row, path=path) for path, row in matched.items())
    return MupTable(model_name, dict(model), base_width, rules, known.adam_eps[rules], rows)


def init_stds(table: MupTable) -> dict[str, float]:
    """{path: standard deviation} of the leaves to draw anew, see `models.redraw`."""
    return {row.path: row.init_std for row in table.rows if row.init_std is not None}


def lr_mults(table: MupTable) -> list[tuple[str, float]]:
    """`config.lr_mults`: an ordered list of (regex, factor) that covers every leaf."""
    return [(re.escape(row.path), row.lr_mult) for row in table.rows]


def wd_mults(table: MupTable) -> list[tuple[str, float]]:
    """`config.wd_mults`, likewise.

    Big Vision takes wd * wd_mult * parameter off at each step whatever lr is, so its factor is lr_mult * wd_mult (1 for
    hidden leaves), and `config.wd` is AdamW's lr * wd.
    """
    return [(re.escape(row.path), row.lr_mult * row.wd_mult) for row in table.rows]


def dumps(table: MupTable) -> str:
    """The table as JSON, one leaf a line."""
    header = {"format_version": _FORMAT_VERSION, **{n: getattr(table, n) for n in _HEADER}}
    lines = ",\n".join(f" {json.dumps(dataclasses.asdict(row))}" for row in table.rows)
    return f'{_START}{json.dumps(header)},\n"rows": [\n{lines}\n]}}\n'


def save(table: MupTable, path: str | os.PathLike[str]) -> None:
    """Writes what `load` reads, whole or not at all."""
    files.write(path, dumps(table))


def is_table(name: str | os.PathLike[str]) -> bool:
    """Whether the file, or the table of that name in norm_cache, is a muP table rather than one of target norms."""
    return files.read(io.find(name)).startswith(_START)


def load(name: str | os.PathLike[str]) -> MupTable:
    """Reads what `save` wrote, by path or by name in norm_cache. Raises `TableError` for anything else."""
    path = io.find(name)
    try:
        content = files.read_json(path)
        version = content["mup"].pop("format_version")
        table = MupTable(**content["mup"], rows=tuple(MupRow(**row) for row in content["rows"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TableError(f"{path} is not a muP table ({error}); make one with tables.mup.save.") from error
    if version != _FORMAT_VERSION:
        raise TableError(f"{path} has format version {version}; this code reads {_FORMAT_VERSION}. Save it anew.")
    return table


_HEADER = ("model_name", "model", "base_width", "rules", "adam_eps")
