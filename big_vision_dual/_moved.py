"""Names of modules before 0.2, kept for one release: importing one gives the module under its new name and warns.

Two give what they held then: `recipes.dualized` is version 0.1's recipe, and `arch_ssm` has `MIXER_OUT`.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import types
import warnings
from collections.abc import Callable, Sequence
from typing import Any

_PACKAGE = __name__.rpartition(".")[0]
_MOVED = {
    "arch": "models.arch",
    "arch_ssm": "models.ssm",
    "data": "train.data",
    "demo": "lab.demo",
    "dualize": "core.dualize",
    "dualize.atoms": "core.dualize.geometry",
    "evaluators": "train.evaluators",
    "launch": "pods",
    "losses": "train.losses",
    "mistakes": "core.errors",
    "norms": "core.norms",
    "norms.zoo": "models.norm_trees",
    "optim": "train.optim",
    "pp": "train.pp",
    "recipes": "train.recipes",
    "report": "lab.report",
    "studies": "lab.studies",
    "tables": "core.tables",
    "tables.mup": "models.mup",
    "trainer": "train",
    "trees": "core.trees",
}


def _mixer_out(_: types.ModuleType) -> dict[str, float]:
    from big_vision_dual.models import family

    return {name: family.of(name).dual["mixer_out"] for name in ("mamba", "mamba2")}


_AS_BEFORE: dict[str, tuple[str, Callable[[types.ModuleType], Any]]] = {
    "recipes": ("dualized", lambda recipes: recipes.of_0_1),
    "arch_ssm": ("MIXER_OUT", _mixer_out),
}
"""{old module: (what it held otherwise than the new one, made from that)}."""


def _new_name(name: str) -> str | None:
    """'big_vision_dual.trainer.step' -> 'big_vision_dual.train.step'; None for what has not moved."""
    package, _, rest = name.partition(".")
    parts = rest.split(".")
    for length in range(len(parts), 0, -1):
        new = _MOVED.get(".".join(parts[:length]))
        if package == _PACKAGE and new is not None:
            return ".".join([package, new, *parts[length:]])
    return None


class _OldNames(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        del path, target
        return None if _new_name(fullname) is None else importlib.machinery.ModuleSpec(fullname, self)

    def exec_module(self, module: types.ModuleType) -> None:
        old = module.__name__
        new = _new_name(old)
        assert new is not None, "find_spec lets only old names pass"
        found = importlib.import_module(new)
        before = _AS_BEFORE.get(old.removeprefix(f"{_PACKAGE}."))
        if before is not None:
            name, make = before
            module.__dict__.update({**vars(found), name: make(found), "__name__": old})
        else:
            sys.modules[old] = found  # the import system hands out what it finds there
        if old != f"{_PACKAGE}.norms":  # also a public name
            warnings.warn(f"{old} is now {new}; the old name goes in 0.3.", DeprecationWarning, stacklevel=2)


def install() -> None:
    """Lets old names be imported; called once, by the package."""
    sys.meta_path.insert(0, _OldNames())  # before the files: an old package's folder is the new one's
