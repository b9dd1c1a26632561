"""What a metric's name says: its title, its section of a report, whether low or high is good, its scale."""

from __future__ import annotations

import dataclasses

SECTIONS = {
    "result": "Result",
    "optimization": "Optimization",
    "norms": "Size and step of every atom",
    "speed": "Speed",
    "system": "System",
}
"""Sections of a report in their order: {name: title}. The page and the wandb report have the same."""

NORMS = ("weight_norm/", "update_norm/", "gradient_norm/", "size/", "predicted_size/")
_AXES = ("progress", "epoch", "examples_seen")  # what an x axis says, a chart need not
_SPEED = ("img/sec", "img/sec/core", "step_seconds", "data_wait_seconds", "mfu", "tokens/sec")
_TITLES = {
    "training_loss": "Training loss",
    "train/loss": "Training loss",
    "l2_params": "L2 norm of the parameters",
    "l2_grads": "L2 norm of the gradient",
    "l2_updates": "L2 norm of the update",
    "global_schedule": "Schedule (factor of the learning rate)",
    "img/sec": "Examples per second",
    "img/sec/core": "Examples per second and device",
    "step_seconds": "Seconds per step",
    "data_wait_seconds": "Seconds per step spent waiting for data",
    "mfu": "Model FLOPs utilization",
    "core_hours": "Device hours",
}


@dataclasses.dataclass(frozen=True)
class Metric:
    """name: in the metrics file. better: 'min', 'max' or None. log: whether a logarithmic axis suits it."""

    name: str
    title: str
    section: str
    better: str | None
    log: bool


def described(name: str) -> Metric | None:
    """None for what is no curve of its own: progress and its like, and norms, which heat maps show."""
    if name in _AXES or name.startswith(NORMS):
        return None
    section, better = _section(name), None
    last = name.rpartition("/")[2]
    if section == "result":
        better = "max" if any(part in last for part in ("acc", "prec")) else "min" if _is_loss(last) else None
    log = (_is_loss(last) and section == "result") or name.startswith("l2_")
    return Metric(name, _TITLES.get(name, _spoken(name)), section, better, log)


def _section(name: str) -> str:
    if name in _SPEED:
        return "speed"
    if name in ("core_hours", "uptime") or name.startswith("system/"):
        return "system"
    if name.startswith(("l2_", "lr")) or "schedule" in name or "momentum" in name:
        return "optimization"
    return "result"


def _is_loss(last: str) -> bool:
    return any(part in last for part in ("loss", "nll", "bits", "perplexity", "error"))


def _spoken(name: str) -> str:
    """'val/acc@1' -> 'val: accuracy@1'."""
    owner, _, last = name.rpartition("/")
    last = last.replace("acc@", "accuracy@").replace("_", " ")
    return f"{owner}: {last}" if owner else last.capitalize()


def importance(metric: Metric) -> tuple[int, str]:
    """Sort key: the training loss first, then accuracies and losses of the evaluators."""
    results, sizes, speeds = ("training_loss", "train/", "val/", "test/"), ("l2_params", "l2_grads"), ("img/sec",)
    order = (*results, *sizes, *speeds)
    rank = next((rank for rank, start in enumerate(order) if metric.name.startswith(start)), len(order))
    return rank, metric.name
