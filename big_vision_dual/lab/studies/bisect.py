"""From the standard ViT with AdamW to the dualized one: what does each difference do, each variant at its best lr?"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from big_vision_dual.core import rules
from big_vision_dual.lab.studies import fit, grid, settings, sweep
from big_vision_dual.lab.studies.lr_transfer import losses
from big_vision_dual.lab.studies.results import Record, Results
from big_vision_dual.models import norm_trees

Variant = dict[str, Any]  # {switch: value}, every switch given


@dataclasses.dataclass(frozen=True)
class Switch:
    """One difference. standard, dual: its values at the two ends. others: further values, tried from the dual end.

    needs_dualize: it means something only where the optimizer is 'dualize'.
    """

    standard: Any
    dual: Any
    others: tuple[Any, ...] = ()
    needs_dualize: bool = False


SWITCHES = {
    "gelu": Switch("plain", "unit"),
    "attention_logits": Switch("rsqrt", "inverse"),
    "attention_out": Switch(1.0, 1 / 3),
    "residual": Switch("sum", "convex"),
    "init": Switch("standard", "dual"),
    "warmup": Switch(settings.WARMUP, 0.0),
    "optimizer": Switch("adam", "dualize"),
    "table": Switch("flat", "well_normed", ("first_attempt",), needs_dualize=True),
    "momentum": Switch(0.95, 0.95, (0.9,), needs_dualize=True),
    "nesterov": Switch(False, False, (True,), needs_dualize=True),
    "vectors": Switch("adam", "dualize", needs_dualize=True),
    "vector_mass": Switch(1.0, 1.0, (0.1,), needs_dualize=True),
    "ends": Switch("adam", "dualize", needs_dualize=True),
    "scale_floor": Switch(True, False, needs_dualize=True),
    "weight_constraint": Switch("none", "none", ("project", "frank_wolfe"), needs_dualize=True),
}
ARCHITECTURE = ("gelu", "attention_logits", "attention_out", "residual", "init")
STANDARD: Variant = {
    name: switch.dual if switch.needs_dualize else switch.standard for name, switch in SWITCHES.items()
}
DUAL: Variant = {name: switch.dual for name, switch in SWITCHES.items()}
MUON: Variant = {**DUAL, "table": "moonlight", "nesterov": True}
"""Moonlight's rule on the dual architecture, Adam for vectors, head and patch embedding at the same learning rate."""
ENDS = {"standard": STANDARD, "dual": DUAL, "muon": MUON}
FALLBACKS = {"vectors": r".*/(bias|scale)", "ends": r"(head|embedding)/.*|pos_embedding"}
FALLBACK_SCALE = 2.0**-6  # Adam's best lr is near 2^-8 where the dualized one is near 2^-2
_CONVENTIONS = ("well_normed", "first_attempt", "flat")  # tables by `config.norms.conventions`, others by a rule
LOG2_LRS = {"adam": (-10, -9, -8, -7, -6), "dualize": (-4, -3, -2, -1, 0)}
_EXTENSIONS = 3  # how often a grid grows by two octaves when the best lr is at its edge


@dataclasses.dataclass(frozen=True)
class Tuned:
    """A variant at its best learning rate: that of the lowest mean loss among those run. loss_S, accuracy_S: there.

    The vertex of a fitted parabola (`optimum`) says where the best rate lies, not how low the loss is: it can lie .05
    below what any run reached.
    """

    variant: Variant
    optimum: fit.Optimum
    loss_S: np.ndarray
    accuracy_S: np.ndarray


@dataclasses.dataclass(frozen=True)
class Effect:
    """Change of loss when one switch leaves an end: positive is worse. Paired over seeds, with a 95 % t interval."""

    switch: str
    value: Any
    loss: fit.Interval
    accuracy: fit.Interval
    tuned: Tuned


def config_of(base: Mapping[str, Any], variant: Variant) -> grid.Config:
    """The config of a variant."""
    architecture = {"scaling": {name: variant[name] for name in ARCHITECTURE}}
    if variant["optimizer"] == "adam":
        return settings.warmed_up(settings.adamw(base, architecture), variant["warmup"])
    fallback = [[pattern, "adam"] for name, pattern in FALLBACKS.items() if variant[name] == "adam"]
    options = {
        "momentum": variant["momentum"], "nesterov": variant["nesterov"], "scale_floor": variant["scale_floor"],
        "fallback": fallback,
    }  # fmt: skip
    if fallback:
        options["fallback_scale"] = FALLBACK_SCALE
    if variant["table"] in rules.RULES and variant["table"] not in _CONVENTIONS:
        return _by_rule(base, variant, architecture, options)
    config = settings.warmed_up(settings.dualize(base, variant["table"], architecture), variant["warmup"])
    if variant["vector_mass"] != 1:
        config = grid.replace(config, {"norms.masses": dict.fromkeys(("Bias", "Scale"), variant["vector_mass"])})
    return grid.replace(config, {"optax": options, "weight_constraint": variant["weight_constraint"]})


def _by_rule(base: Mapping[str, Any], variant: Variant, architecture: Any, options: Mapping[str, Any]) -> grid.Config:
    """Another rule's table and what it hands to Adam; decay and momentum are the variant's."""
    config = settings.warmed_up(
        settings.dualize(base, architecture=architecture, rule=variant["table"]), variant["warmup"]
    )
    rule = rules.get(variant["table"])(norm_trees.table_for(settings.dualize(base, architecture=architecture)))
    own = {name: value for name, value in rule.options.items() if name in ("adam", "fallback_scale")}
    fallback = [*options["fallback"], *map(list, rule.options.get("fallback", ()))]
    fields = {"optax": {**options, **own, "fallback": fallback}, "weight_constraint": variant["weight_constraint"]}
    return grid.replace(config, fields)


def tune(base: Mapping[str, Any], variant: Variant, seeds: int, results: Results, quiet: bool = False) -> Tuned:
    """Sweeps the learning rate in octaves, further where the best is at the edge of the grid."""
    config, log2_lrs = config_of(base, variant), list(LOG2_LRS[variant["optimizer"]])
    for _ in range(_EXTENSIONS + 1):
        trials = grid.product(config, {"lr": [2.0**x for x in log2_lrs], "seed": range(seeds)})
        records, _ = sweep.run(trials, results, quiet=quiet)
        tuned = _tuned(variant, records)
        if not tuned.optimum.at_edge:
            break
        low = tuned.optimum.log2_lr < np.mean(log2_lrs)
        log2_lrs += [min(log2_lrs) - 2, min(log2_lrs) - 1] if low else [max(log2_lrs) + 1, max(log2_lrs) + 2]
        log2_lrs.sort()
    return tuned


def _tuned(variant: Variant, records: Sequence[Record]) -> Tuned:
    log2_lr_L, loss_LxS = losses(records)
    optimum = fit.optimum(log2_lr_L, loss_LxS)
    best = 2.0 ** log2_lr_L[int(np.argmin(loss_LxS.mean(axis=1)))]
    accuracies = [r["result"]["val_accuracy"] for r in records if r["point"]["lr"] == best]
    lowest_S = loss_LxS[int(np.argmin(loss_LxS.mean(axis=1)))]
    return Tuned(variant, optimum, lowest_S, np.array(accuracies, float))


def one_at_a_time(end: str, switches: Sequence[str] = tuple(SWITCHES)) -> list[tuple[str, Any, Variant]]:
    """(switch, value, variant) for each single departure through `switches` from an end, 'standard' or 'dual'."""
    start = ENDS[end]
    departures = []
    for name, switch in _chosen(switches).items():
        if end == "standard" and switch.needs_dualize:
            continue
        values = (switch.dual,) if end == "standard" else (switch.standard, switch.dual, *switch.others)
        once = dict.fromkeys(values)
        departures += [(name, value, {**start, name: value}) for value in once if value != start[name]]
    return departures


def shares(
    base: Mapping[str, Any], atoms: Sequence[str], factors: Sequence[float]
) -> list[tuple[str, float, grid.Config]]:
    """(regex, factor, base config) for every pair: the target norms of these atoms times the factor."""
    return [
        (pattern, factor, grid.replace(base, {"target_norm_scale": [[pattern, factor]]}))
        for pattern, factor in itertools.product(atoms, factors)
    ]


def effect(switch: str, value: Any, tuned: Tuned, reference: Tuned) -> Effect:
    """What leaving `reference` for `tuned`, through one switch, does."""
    return Effect(
        switch, value,
        fit.mean_interval(tuned.loss_S - reference.loss_S),
        fit.mean_interval(tuned.accuracy_S - reference.accuracy_S),
        tuned,
    )  # fmt: skip


def factorial(switches: Sequence[str]) -> list[Variant]:
    """All combinations of standard and dual values of some switches, the others at the dual end."""
    values = [(switch.standard, switch.dual) for switch in _chosen(switches).values()]
    return [{**DUAL, **dict(zip(switches, chosen, strict=True))} for chosen in itertools.product(*values)]


def _chosen(switches: Sequence[str]) -> dict[str, Switch]:
    unknown = sorted(set(switches) - set(SWITCHES))
    if unknown:
        raise ValueError(f"unknown switches {unknown}; possible: {', '.join(SWITCHES)}.")
    return {name: SWITCHES[name] for name in switches}


def contrasts(switches: Sequence[str], tuned: Sequence[Tuned]) -> dict[str, fit.Interval]:
    """Main effects and interactions of a full factorial in the order of `factorial`, in loss.

    A main effect is the loss with the switch at its dual value minus that at its standard value, averaged over all
    settings of the others; an interaction is half of the change of that difference when another switch goes dual.
    """
    signs_VxK = np.array(list(itertools.product((-1, 1), repeat=len(switches))))
    loss_VxS = np.stack([each.loss_S for each in tuned])
    found = {}
    for size in range(1, len(switches) + 1):
        for chosen in itertools.combinations(range(len(switches)), size):
            sign_V = np.prod(signs_VxK[:, chosen], axis=1)
            found[" x ".join(switches[i] for i in chosen)] = fit.mean_interval(
                2 * np.mean(sign_V[:, None] * loss_VxS, 0)
            )
    return found
