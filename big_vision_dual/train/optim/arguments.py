"""Checks keyword arguments that come from a config against the function that will read them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from big_vision_dual.core.errors import did_you_mean


def check(function: Callable[..., Any], given: Mapping[str, Any], what: str, also: Iterable[str] = ()) -> None:
    """Raises `ValueError` where `function` has no keyword for a key of `given` (nor `also` has it), or lacks one.

    what: the config key that `given` is, for the message.
    """
    parameters = [p for p in inspect.signature(function).parameters.values() if p.kind != p.POSITIONAL_ONLY]
    if any(p.kind == p.VAR_KEYWORD for p in parameters):
        return
    possible = [*(p.name for p in parameters if p.kind != p.VAR_POSITIONAL), *also]
    for key in given:
        if key not in possible:
            raise ValueError(f"{what} has no key {key!r}{did_you_mean(key, possible)}; possible: {sorted(possible)}.")
    required = [p.name for p in parameters if p.default is p.empty and p.kind != p.VAR_POSITIONAL]
    missing = [name for name in required if name not in given]
    if missing:
        raise ValueError(f"{what} lacks {missing}; given: {sorted(given)}. Add {missing[0]!r}.")
