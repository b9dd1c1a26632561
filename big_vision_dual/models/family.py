"""What the library knows of a model besides its forward pass: one record, `FAMILY`, in the model's own file.

`config.model_name` names a module with `Model(num_classes, **config.model)`; one of ours, or 'my_package.my_model'. Its
`FAMILY` is what tables, muP, studies and the audit read; docs/your_model.md shows one. A module without a record trains
all the same, with a flat table; what else needs the record says so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from big_vision_dual import models
from big_vision_dual.core import trees
from big_vision_dual.core.norms.atoms import Atoms
from big_vision_dual.core.norms.module import Module

Options = Mapping[str, Any]  # `config.model`
NormTree = Callable[[Options, tuple[int, ...], int, Atoms, float | None], Module]
Intermediates = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class MupRow:
    """One leaf, or a regex of whole paths. init_std: deviation of its normal initial values, 0 for zeros, None to keep
    what the model draws.

    lr_mult, wd_mult: on lr and on AdamW's wd. output_mult: what the model multiplies the leaf's input with.
    """

    path: str
    cls: str
    init_std: float | None
    lr_mult: float = 1.0
    wd_mult: float = 1.0
    output_mult: float = 1.0


@dataclasses.dataclass(frozen=True)
class Mup:
    """muP of a family. rows: (config.model, base width, rule set) -> ordered rows that cover all leaves.

    model: base width -> the fields of `config.model` that muP asks for. adam_eps: {rule set: Adam's epsilon}; its keys
    are the rule sets that there are.
    """

    rows: Callable[[Options, int, str], list[MupRow]]
    model: Callable[[int], Options] = lambda base_width: {}  # noqa: ARG005
    adam_eps: Mapping[str, float] = dataclasses.field(default_factory=lambda: {"strict": 1e-8})


@dataclasses.dataclass(frozen=True)
class Blocks:
    """A model with given parameters and inputs as a first layer and blocks, for the audit.

    stem: path of the first layer's weights, and that layer's output. inputs: of each block. first: path of the first
    weights in each block. apply: (x, parameters of a block) -> x. params: of all blocks.
    """

    stem: tuple[str, jax.Array]
    inputs: Sequence[jax.Array]
    first: Sequence[str]
    apply: Callable[[jax.Array, Any], jax.Array]
    params: Sequence[Any]


def every(out: Intermediates, sown: Intermediates) -> dict[str, jax.Array]:
    """All intermediates that a model returns: what is recorded where a family names none."""
    del sown
    return trees.flatten(out)


@dataclasses.dataclass(frozen=True)
class Family:
    """The record of a model.

    width, depth: fields of `config.model` that set the size; None where there is none.
    norm_tree: (config.model, input_shape, num_classes, atoms, blocks_mass) -> tree; blocks_mass: what all blocks are
      tared to, None for the family's own. None: no tree, and so a flat table.
    mup: None where there are no rules.
    standard, dual: fields of `config.model` of the standard and of the dual architecture.
    unrolled: fields of `config.model` that give every block leaves of its own.
    activations: (intermediates returned, intermediates sown) -> {name: array}, what a coordinate check records; names
      that end in 'logits' may vary more.
    blocks: (model, parameters, inputs) -> `Blocks`; None: the audit measures no sensitivities.
    """

    width: str | None = "width"
    depth: str | None = "depth"
    norm_tree: NormTree | None = None
    mup: Mup | None = None
    standard: Options = dataclasses.field(default_factory=dict)
    dual: Options = dataclasses.field(default_factory=dict)
    unrolled: Options = dataclasses.field(default_factory=dict)
    activations: Callable[[Intermediates, Intermediates], dict[str, jax.Array]] = every
    blocks: Callable[[Any, Any, jax.Array], Blocks] | None = None


def of(model_name: str) -> Family:
    """The record of a model, empty where its module has none. Raises `ValueError` for an unknown model."""
    return getattr(models.get(model_name), "FAMILY", _NO_RECORD)


_NO_RECORD = Family()
