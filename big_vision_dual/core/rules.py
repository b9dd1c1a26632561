"""Other people's update rules as tables, so that one transformation reproduces them all (docs/size.md).

    rule = rules.muon(params)
    tx = rule.optimizer(learning_rate=0.02)

A Linear's update is scale * polar(G); in our norm its target norm is scale / sqrt(fan_out/fan_in). What a rule hands
to Adam is in the options of `scale_by_dualize` that come with the table. Each rule takes parameters (any that
`tables.flat` reads), a table, or a norm tree; only axes, shapes and paths of a source count, but for `well_normed`,
`flat` and `first_attempt`. Slices of one leaf are matrices of their own.

Standard library, until `Rule.optimizer` is called.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from big_vision_dual.core import tables
from big_vision_dual.core.norms import Atoms, Module
from big_vision_dual.core.tables import first_attempt as first_attempt_steps
from big_vision_dual.core.tables import step_size
from big_vision_dual.core.tables.schema import Row, TableError, TargetNormTable

Source = TargetNormTable | Module | Mapping[str, Any]
ENDS = r"(.*/)?(head|lm_head|embedding|patch_embed)/.*"
"""First and last layers of this package's models, which Muon leaves to Adam."""
_MATRICES = ("Linear", "MaxLinear", "Conv")  # a Conv as one Linear of its window, which is what Muon makes of it


@dataclasses.dataclass(frozen=True)
class Rule:
    """A table, and what else the rule needs.

    options: further arguments of `scale_by_dualize`: `fallback` and `adam` (what goes to Adam, and how), momentum...
    decay: share of a weight that a step takes off, over the learning rate. radius: instead, a radius for
      `constrain('radius', ...)`. Decays go with the schedule of the learning rate.
    """

    name: str
    table: TargetNormTable
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    decay: float = 0.0
    radius: Any = None

    @property
    def constraint(self) -> dict[str, Any] | None:
        """`config.weight_constraint` of a rule with a radius."""
        return None if self.radius is None else {"kind": "radius", "radius": self.radius}

    def optimizer(self, learning_rate: Any, **options: Any) -> Any:
        """The whole optax chain. learning_rate: a number or a schedule. options: of `scale_by_dualize`, on top."""
        import optax

        from big_vision_dual.core import dualize

        stages = [
            dualize.scale_by_dualize(self.table, **{**self.options, **options}),
            *([optax.add_decayed_weights(self.decay)] if self.decay else []),
            optax.scale_by_learning_rate(learning_rate),
        ]
        if self.radius is not None:
            stages.append(dualize.constrain("radius", self.table, rate=learning_rate, radius=self.radius))
        return optax.chain(*stages)


def muon(source: Source, *, ends: str | None = ENDS, adam_lr: float = 1.0) -> Rule:
    """Keller Jordan's Muon (kellerjordan.github.io/posts/muon), as `optax.contrib.muon` has it by default.

    Scale max(1, sqrt(fan_out/fan_in)); vectors, embeddings and what `ends` matches by NAdam. ends: regex of whole
    paths; None for no leaf, so that head and patch embedding are matrices too. adam_lr: Adam's learning rate over
    Muon's.
    """
    table = _table(source)
    return _orthogonalized(
        "muon", table, lambda fan_in, fan_out: max(1.0, math.sqrt(fan_out / fan_in)),
        fallback=_to_adam(table, ends), fallback_scale=adam_lr,
    )  # fmt: skip


def moonlight(source: Source, *, ends: str | None = ENDS, rms: float = 0.2) -> Rule:
    """Moonlight's Muon (arXiv 2502.16982), `consistent_rms` in optax: every entry moves by `rms` * lr, as AdamW's do.

    Scale rms sqrt(max(fan_in, fan_out)); the rest by Adam at the same learning rate; decay .1 * lr.
    """
    table = _table(source)
    return _orthogonalized(
        "moonlight", table, lambda fan_in, fan_out: rms * math.sqrt(max(fan_in, fan_out)),
        fallback=_to_adam(table, ends), decay=0.1,
    )  # fmt: skip


def algoperf_muon(source: Source) -> Rule:
    """The Muon that was run on AlgoPerf's ImageNet ViT: every leaf of two axes or more, head and patch embedding too.

    Scale max(1, sqrt(fan_out/fan_in)); vectors by Adam(.966, .863) at lr / 28.6; decay .024 * lr.
    """
    table = _linears(_table(source), lambda row: row.atom == "Embed")
    return _orthogonalized(
        "algoperf_muon", table, lambda fan_in, fan_out: max(1.0, math.sqrt(fan_out / fan_in)),
        fallback=_to_adam(table, None), fallback_scale=1 / 28.6, adam={"b1": 0.966, "b2": 0.863}, decay=0.024,
    )  # fmt: skip


def scion(source: Source, *, head: str = r"(.*/)?head/.*", radius: float = 25.0, head_radius: float = 500.0) -> Rule:
    """Scion as it trains DeiT (arXiv 2502.07529, constrained): no Adam, the learning rate is what a step takes off.

    Scale radius sqrt(fan_out/fan_in); biases RMS-normalized; of `head` (a regex of whole paths) the kernel moves by
    sign(G) head_radius / fan_in: as a Scale atom, whose dual is the sign. Gains are removed there; here they stay at 1.
    """
    table = _table(source)
    kernels = [row for row in table.rows if row.atom in _MATRICES and re.fullmatch(head, row.path)]
    if not kernels:
        raise _no_match("scion", "head", head, table)
    signs = {row.key: head_radius / step_size.fans(row)[0] for row in kernels}

    def of(row: Row) -> Row:
        if row.key in signs:
            return _with(dataclasses.replace(row, atom="Scale", fan_in=(), fan_out=_own_axes(row)), signs[row.key])
        return _with(row, 0.0 if row.atom == "Scale" else radius)

    radii = [*((re.escape(row.path), signs[row.key]) for row in kernels), ("Scale|Rate", None), (".*", radius)]
    return Rule("scion", _made(table, "scion", of), {"momentum": 0.9}, radius=radii)


def balanced(source: Source, *, rms: float = 0.2, vectors: float = 0.2) -> Rule:
    """Every entry of every matrix moves by `rms` * lr (as in Moonlight), nothing goes to Adam; vectors' target norm."""

    def of(row: Row) -> Row:
        return _with(row, vectors if row.atom in ("Bias", "Scale", "Rate") else rms / step_size.unit_rms(row))

    table = _table(source)
    _require_matrices("balanced", table)
    return Rule("balanced", _made(table, "balanced", of), {"momentum": 0.9, "nesterov": True})


def flat(source: Source) -> Rule:
    """Equal target norms: the mean of the source's, so that a learning rate means much the same."""
    table = _table(source)
    values = [v for row in table.rows for v in _values(row.target_norm)]
    mean = sum(values) / len(values)
    return Rule("flat", _made(table, "flat", lambda row: _with(row, mean)))


def well_normed(source: Source) -> Rule:
    """The source's own table, from a norm tree or as it is."""
    return Rule("well_normed", _table(source))


def first_attempt(source: Source) -> Rule:
    """What the first public dualized ViT's code did with a table of the conventions 'first_attempt'.

    Takes such a table (of config.norms.conventions = 'first_attempt', or norm_cache's vit_s16_i1k_first_attempt), which
    has it all but the momentum. Its decay, .005 a step of every kernel, does not follow lr.
    """
    table = _table(source)
    if table.norms.get("conventions") != "first_attempt":
        raise TableError(
            "rule first_attempt: the source is no table of that convention, whose sensitivities it needs. Build one: "
            "bvd norms build --config X --config.norms.conventions=first_attempt, or load 'vit_s16_i1k_first_attempt'."
        )
    return Rule("first_attempt", table, {"momentum": 0.95})


RULES: dict[str, Callable[..., Rule]] = {
    rule.__name__: rule for rule in (muon, moonlight, scion, algoperf_muon, balanced, flat, first_attempt, well_normed)
}


def get(name: str) -> Callable[..., Rule]:
    """The rule of that name; raises `TableError` for another."""
    if name not in RULES:
        raise TableError(f"no rule {name!r}; possible: {', '.join(RULES)}.")
    return RULES[name]


STEPS = ("shared_layer_norms", "biases_per_head", "rule")
"""Fields of `config.norms` that change a table after its dry run, in this order; see `after_dry_run`."""


def after_dry_run(table: TargetNormTable) -> TargetNormTable:
    """The table after what its `norms` ask for besides the tree.

    shared_layer_norms, biases_per_head: bools, the two steps of `tables.first_attempt`; by default as in that code,
    so on under the conventions 'first_attempt'. rule: name in `RULES`; its table takes the place of this one, while
    options and decay of the rule are the config's affair.
    """
    norms = table.norms
    first = norms.get("conventions") == "first_attempt"
    if _on(norms.get("shared_layer_norms"), first):
        atoms = Atoms.of("first_attempt", norms.get("masses"))
        table = first_attempt_steps.share_layer_norms(table, lambda row: atoms.mass(row.atom, row.path))
    if _on(norms.get("biases_per_head"), first):
        table = first_attempt_steps.biases_per_head(table)
    name = norms.get("rule")
    return table if name is None else get(name)(table).table


def _on(given: bool | None, default: bool) -> bool:
    return default if given is None else bool(given)


def _table(source: Source) -> TargetNormTable:
    if isinstance(source, TargetNormTable):
        return source
    if isinstance(source, Module):
        return tables.build(source, model_name="tree", model={}, input_shape=(), norms={})
    return tables.flat(source)


def _orthogonalized(
    name: str, table: TargetNormTable, scale: Callable[[int, int], float], *, decay: float = 0.0, **options: Any
) -> Rule:
    """Matrices that do not fall back move by scale(fan_in, fan_out) * polar, with Jordan's iteration and momentum."""
    _require_matrices(name, table)

    def of(row: Row) -> Row:
        if row.atom not in _MATRICES:
            return row
        linear = dataclasses.replace(row, atom="Linear")
        return _with(linear, scale(*step_size.fans(linear)) / step_size.gain(linear))

    momentum = {"momentum": 0.95, "nesterov": True, "momentum_kind": "debiased", "polar": "muon_5"}
    adam = {"adam": {"nesterov": True}} if name == "muon" else {}
    return Rule(name, _made(table, name, of), {**momentum, **adam, **options}, decay)


def _to_adam(table: TargetNormTable, ends: str | None) -> list[tuple[str, str]]:
    """Fallback pairs: what `ends` matches, then all leaves without a matrix, by their kinds of path."""
    if ends is not None and not any(re.fullmatch(ends, row.path) for row in table.rows):
        raise _no_match("muon", "ends", ends, table)
    matrices = {row.path for row in table.rows if row.atom in _MATRICES}
    others = dict.fromkeys(row.path for row in table.rows if row.path not in matrices)
    first = [] if ends is None else [(ends, "adam")]
    return [*first, *((re.escape(path), "adam") for path in others)]


def _linears(table: TargetNormTable, chosen: Callable[[Row], bool]) -> TargetNormTable:
    rows = (dataclasses.replace(row, atom="Linear") if chosen(row) else row for row in table.rows)
    return dataclasses.replace(table, rows=tuple(rows))


def _made(table: TargetNormTable, name: str, of: Callable[[Row], Row]) -> TargetNormTable:
    return dataclasses.replace(table, rows=tuple(map(of, table.rows)), norms={**table.norms, "rule": name})


def _with(row: Row, target_norm: float) -> Row:
    """The row with this target norm, of stacked layers for each."""
    own = row.target_norm
    return dataclasses.replace(row, target_norm=(target_norm,) * len(own) if isinstance(own, tuple) else target_norm)


def _values(value: float | tuple[float, ...]) -> tuple[float, ...]:
    return value if isinstance(value, tuple) else (value,)


def _own_axes(row: Row) -> tuple[int, ...]:
    return tuple(axis for axis in range(len(row.shape)) if axis not in row.batch)


def _require_matrices(name: str, table: TargetNormTable) -> None:
    if not any(row.atom in _MATRICES for row in table.rows):
        kinds = ", ".join(sorted({row.atom for row in table.rows})) or "none"
        raise TableError(
            f"rule {name}: the tree has no matrix to orthogonalize (atoms: {kinds}). Give a tree with a Linear, or "
            "correct what `tables.flat` took its leaves for."
        )


def _no_match(name: str, what: str, pattern: str, table: TargetNormTable) -> TableError:
    return TableError(
        f"rule {name}: {what}={pattern!r} matches none of {len(table.rows)} leaves, such as {table.rows[0].path}. "
        f"Give {what}= a regex of whole paths{', or None for no such leaf' if what == 'ends' else ''}."
    )
