"""Names of modules before 0.2, kept for one release: importing one gives the module under its new name and warns."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import types
import warnings
from collections.abc import Sequence

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
        sys.modules[old] = importlib.import_module(new)  # the import system hands out what it finds there
        if old != f"{_PACKAGE}.norms":  # also a public name
            warnings.warn(f"{old} is now {new}; the old name goes in 0.3.", DeprecationWarning, stacklevel=2)


def install() -> None:
    """Lets old names be imported; called once, by the package."""
    sys.meta_path.insert(0, _OldNames())  # before the files: an old package's folder is the new one's
