"""muP as data: the class of each parameter, its initial deviation and its multipliers under Adam. No JAX.

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

Rule sets. `reference`: exactly mamba.py's. `strict`, for Mamba: its dt_proj is drawn with one factor 1/sqrt(m) less,
which there made Delta's input shrink with the width, and Adam's eps is 1e-15, since 1e-8 swamps gradients of rms 1e-11.
In both, the B and C slices of a fused projection, whose fan-out does not grow, are drawn like the rest of their leaf.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from big_vision_dual.core import trees
from big_vision_dual.core.tables import io
from big_vision_dual.core.tables.schema import TableError
from big_vision_dual.models import arch, arch_ssm

CLASSES = ("input", "hidden", "output", "bias", "kept")
RULE_SETS = ("reference", "strict")
_ADAM_EPS = {"reference": 1e-8, "strict": 1e-15}
_STATE_SPACE = ("mamba", "mamba2")  # whose Delta has the small gradients that need the smaller epsilon
_FORMAT_VERSION = 1
_START = '{"mup": '  # of a file


@dataclasses.dataclass(frozen=True)
class MupRow:
    """One leaf. init_std: deviation of its normal initial values, 0 for zeros, None to keep what the model draws.

    lr_mult, wd_mult: on lr and on AdamW's wd. output_mult: what the model multiplies the leaf's input with.
    """

    path: str
    cls: str
    init_std: float | None
    lr_mult: float = 1.0
    wd_mult: float = 1.0
    output_mult: float = 1.0


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
    if rules not in RULE_SETS:
        raise TableError(f"mup.rules is {rules!r}; possible: {', '.join(map(repr, RULE_SETS))}.")
    if model_name not in _PATTERNS:
        raise TableError(f"no muP rules for model_name {model_name!r}; possible: {', '.join(_PATTERNS)}.")
    patterns = [(row.path, row) for row in _PATTERNS[model_name](model, base_width, rules)]
    matched = trees.first_match(patterns, trees.flatten(params), f"muP rules of {model_name}")
    rows = tuple(dataclasses.replace(row, path=path) for path, row in matched.items())
    eps = _ADAM_EPS[rules] if model_name in _STATE_SPACE else _ADAM_EPS["reference"]
    return MupTable(model_name, dict(model), base_width, rules, eps, rows)


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
    """Writes what `load` reads."""
    pathlib.Path(path).write_text(dumps(table))


def is_table(name: str | os.PathLike[str]) -> bool:
    """Whether the file, or the table of that name in norm_cache, is a muP table rather than one of target norms."""
    return io.find(name).read_text().startswith(_START)


def load(name: str | os.PathLike[str]) -> MupTable:
    """Reads what `save` wrote, by path or by name in norm_cache. Raises `TableError` for anything else."""
    path = io.find(name)
    try:
        content = json.loads(path.read_text())
        version = content["mup"].pop("format_version")
        table = MupTable(**content["mup"], rows=tuple(MupRow(**row) for row in content["rows"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TableError(f"{path} is not a muP table ({error}); make one with tables.mup.save.") from error
    if version != _FORMAT_VERSION:
        raise TableError(f"{path} has format version {version}; this code reads {_FORMAT_VERSION}. Save it anew.")
    return table


_HEADER = ("model_name", "model", "base_width", "rules", "adam_eps")


def _mamba(model: Mapping[str, Any], base_width: int, rules: str) -> list[MupRow]:
    spec = arch_ssm.spec(arch_ssm.Mamba, model)
    m = _ssm_mult(spec, base_width)
    dt_std = spec.rank**-0.5 / (m**0.5 if rules == "reference" else 1.0)
    own = [
        MupRow(".*/mixer/x_proj/kernel", "hidden", 0.02 / m**0.5, 1 / m, m),
        MupRow(".*/mixer/dt_proj/kernel", "hidden", dt_std, 1 / m, m),
        MupRow(".*/mixer/dt_proj/bias", "bias", None, wd_mult=0.0),
        MupRow(".*/mixer/A_log", "kept", None),
    ]
    return own + _ssm_common(spec, m)


def _mamba2(model: Mapping[str, Any], base_width: int, rules: str) -> list[MupRow]:  # noqa: ARG001
    spec = arch_ssm.spec(arch_ssm.Mamba2, model)
    own = [
        MupRow(".*/mixer/dt_bias", "bias", None, wd_mult=0.0),
        MupRow(".*/mixer/A_log", "kept", None, wd_mult=0.0),
        MupRow(".*/mixer/norm/scale", "kept", None, wd_mult=0.0),
    ]
    return own + _ssm_common(spec, _ssm_mult(spec, base_width))


def _ssm_common(spec: arch_ssm.Spec, m: float) -> list[MupRow]:
    out_std = 0.02 / (2 * spec.n_layers) ** 0.5
    return [
        MupRow("embedding/embedding", "input", 0.02),
        MupRow("head/kernel", "output", 0.0, output_mult=1 / m),
        MupRow(".*/mixer/in_proj/kernel", "hidden", 0.02 / m**0.5, 1 / m, m),
        MupRow(".*/mixer/out_proj/kernel", "hidden", out_std / m**0.5, 1 / m, m),
        MupRow(".*/mixer/conv/kernel", "input", 0.0),
        MupRow(".*/mixer/conv/bias", "bias", None, wd_mult=0.0),
        MupRow(".*/mixer/D", "kept", None, wd_mult=0.0),
    ]


def _ssm_mult(spec: arch_ssm.Spec, base_width: int) -> float:
    if spec.mup_base_width != base_width:
        raise TableError(
            f"mup.base_width is {base_width}, but the model has mup_base_width {spec.mup_base_width}; set "
            "config.model.mup_base_width to the same, so that the model drops its gains and divides the head's input."
        )
    return spec.width_mult


def _transformer(model: Mapping[str, Any], base_width: int, rules: str) -> list[MupRow]:
    """ViT and GPT: xavier and lecun kernels already shrink with 1/sqrt(fan-in); the head and the queries start at 0.

    Both as arXiv 2203.03466, appendix D.2, advises: logits and attention logits of random weights are Theta(1/sqrt(m)),
    those of trained ones Theta(1), so that random ones change by less in a wider model until training outgrows them.
    The multiplier 1/m of the head's input is moved into its learning rate, which is the same under Adam (arXiv
    2203.03466, lemma J.1), so the model needs no switch.
    """
    if rules != "strict":
        raise TableError(f"mup.rules is {rules!r}, which describes mamba.py; for a transformer use 'strict'.")
    if arch.scaling(model.get("scaling", "standard")).attention_logits != "inverse":
        raise TableError("muP divides q.k by d_head: set config.model.scaling = dict(attention_logits='inverse').")
    if type(model.get("rep_size", False)) is int:
        raise TableError(f"rep_size {model['rep_size']} does not grow with the width; use True or False under muP.")
    m = arch.vit_size_of(model).width / base_width
    return [
        MupRow("embedding/(kernel|embedding)|pos_embedding|cls|.*/probe", "input", None),
        MupRow("head/kernel", "output", 0.0, 1 / m, m),
        MupRow(".*/query/kernel", "hidden", 0.0, 1 / m, m),
        MupRow(".*/kernel", "hidden", None, 1 / m, m),
        MupRow(".*/bias", "bias", None, wd_mult=0.0),
        MupRow(".*/scale", "kept", None, wd_mult=0.0),
    ]


_PATTERNS = {"mamba": _mamba, "mamba2": _mamba2, "vit": _transformer, "gpt": _transformer}
