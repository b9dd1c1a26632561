"""An audit of a target_norm table for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import rich.table

_TITLES = {
    "change": "change of the logits per unit learning rate, by atom (declared: its mass share, an upper bound)",
    "sensitivity": "amplification of small perturbations (declared: sensitivity)",
    "growth": "weight norms after a short training (declared: unit norm)",
}
_MOST = 8


class Finding(Protocol):
    """What `studies.norm_audit.Finding` offers."""

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


def table(what: str, findings: Sequence[Finding], factor: float) -> rich.table.Table:
    """The findings farthest above what is declared, and how many are flagged."""
    flagged = sum(finding.flagged for finding in findings)
    caption = f"{flagged} of {len(findings)} off by more than a factor of {factor:g}"
    view = rich.table.Table("where", title=_TITLES[what], caption=caption)
    for column in ("declared", "measured", "ratio", ""):
        view.add_column(column, justify="right")
    ordered = sorted(findings, key=lambda finding: -finding.ratio)
    for each in ordered[:_MOST]:
        numbers = (f"{number:.4g}" for number in (each.declared, each.measured, each.ratio))
        view.add_row(each.name.removeprefix("Transformer/"), *numbers, "[red]flagged" if each.flagged else "")
    return view
