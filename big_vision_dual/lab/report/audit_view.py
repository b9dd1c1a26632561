"""An audit of a target_norm table for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import rich.table

from big_vision_dual.lab.report import table_view

_TITLES = {
    "change": "change of the logits per unit learning rate, by atom (declared: its mass share, an upper bound)",
    "sensitivity": "amplification of small perturbations (declared: sensitivity)",
    "growth": "weight norms after a short training (declared: unit norm)",
}
_MOST = 8


class Finding(Protocol):
    """What `lab.studies.norm_audit.Finding` offers."""

    @property
    def name(self) -> str: ...
    @property
    def declared(self) -> float: ...
    @property
    def measured(self) -> float: ...
    @property
    def flagged(self) -> bool: ...
    @property
    def ratio(self) -> float: ...


class Share(Protocol):
    """What `lab.studies.measuring.Share` offers."""

    @property
    def name(self) -> str: ...
    @property
    def change(self) -> float: ...
    @property
    def share(self) -> float: ...
    @property
    def allowed(self) -> float: ...
    @property
    def flagged(self) -> bool: ...
    @property
    def ratio(self) -> float: ...


def shares(found: Sequence[Share], factor: float, what: str) -> rich.table.Table:
    """The atoms that one step moves farthest beyond their share of the mass, and those that it moves least.

    what: the step, in words.
    """
    flagged = sum(each.flagged for each in found)
    caption = f"{flagged} of {len(found)} above {factor:g} times their share of the mass"
    title = f"change of the output by {what}, atom by atom"
    view = rich.table.Table("where", title=title, caption=caption)
    for column in ("change", "share of all", "of the mass", "ratio", ""):
        view.add_column(column, justify="right")
    ends = found if len(found) <= 2 * _MOST else (*found[:_MOST], None, *found[-_MOST:])
    for each in ends:
        if each is None:
            view.add_section()
            continue
        numbers = (f"{number:.4g}" for number in (each.change, each.share, each.allowed, each.ratio))
        view.add_row(each.name.removeprefix("Transformer/"), *numbers, "[red]flagged" if each.flagged else "")
    return view


def table(what: str, findings: Sequence[Finding], factor: float) -> rich.table.Table:
    """The findings farthest above what is declared, and how many are flagged."""
    flagged = sum(finding.flagged for finding in findings)
    caption = f"{flagged} of {len(findings)} off by more than a factor of {factor:g}"
    view = rich.table.Table("where", title=_TITLES[what], caption=caption)
    for column in ("declared", "measured", "ratio", ""):
        view.add_column(column, justify="right")
    ordered = sorted(findings, key=lambda finding: -finding.ratio)
    for each in ordered[:_MOST]:
        numbers = f"{each.declared:.4g}", f"{each.measured:.4g}", table_view.ratio(each.declared, each.measured)
        view.add_row(each.name.removeprefix("Transformer/"), *numbers, "[red]flagged" if each.flagged else "")
    return view
