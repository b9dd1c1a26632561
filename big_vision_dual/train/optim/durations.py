"""Durations and events: Big Vision's `{name}_{steps,epochs,examples,percent}` config keys. Standard library only."""

from __future__ import annotations

from typing import Any

from big_vision_dual.train.fields import UNITS


def steps(
    prefix: str,
    config: Any,
    data_size: int | None = None,
    batch_size: int | None = None,
    total_steps: int | None = None,
    default: int | None = None,
) -> int:
    """The duration `prefix` of a config, in steps of `batch_size` examples: max(1, round(x)), while 0 stays 0.

    Reads the one key of `{prefix}_{steps,epochs,examples,percent}` that is set; None and negative values
    count as unset. Epochs need `data_size` and `batch_size`, examples `batch_size`, percent (a share in
    [0, 1]) `total_steps`. With no key set the result is `default`, and an error where that is None.
    """
    given = {unit: config[f"{prefix}_{unit}"] for unit in UNITS if _is_set(config.get(f"{prefix}_{unit}"))}
    if len(given) > 1:
        raise ValueError(
            f"{prefix} is given {len(given)} times: {', '.join(f'{prefix}_{u}={v}' for u, v in given.items())}. "
            "Keep one of them; a negative value unsets a key."
        )
    for unit, value in given.items():
        count = value * _steps_per(unit, prefix, value, data_size, batch_size, total_steps)
        return max(1, round(count)) if value else 0
    if default is None:
        raise ValueError(
            f"no duration {prefix!r}; possible: one of {', '.join(f'{prefix}_{unit}' for unit in UNITS)}, not negative."
        )
    return default


def fires(step: int, every: int, total: int, *, first: bool = True) -> bool:
    """Whether an event with period `every` falls on `step` (counted from 1) of `total`.

    It falls on multiples of `every`, on step 1 (unless `first` is False) and on the last step, but not on a
    multiple less than a quarter period before the last. A period of 0 never fires.
    """
    if not every:
        return False
    if step == total or (first and step == 1):
        return True
    return step % every == 0 and abs(total - step) >= every / 4


def _is_set(value: float | None) -> bool:
    return value is not None and value >= 0


def _steps_per(
    unit: str, prefix: str, value: float, data_size: int | None, batch_size: int | None, total_steps: int | None
) -> float:
    """Steps in one `unit`; an error that names what is not known."""
    if unit == "percent" and value > 1:
        raise ValueError(f"{prefix}_percent is {value}; possible: a share in [0, 1], such as 0.1 for a tenth.")
    match unit:
        case "steps":
            return 1
        case "epochs" if data_size and batch_size:
            return data_size / batch_size
        case "examples" if batch_size:
            return 1 / batch_size
        case "percent" if total_steps:
            return total_steps
    needs = {"epochs": "data_size and batch_size", "examples": "batch_size", "percent": "total_steps"}[unit]
    raise ValueError(f"{prefix}_{unit}={value} needs {needs}, not known here; give {prefix}_steps instead.")
