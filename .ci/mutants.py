"""Small wrong changes to the code that the tests should notice: each survivor is a missing test, or changes nothing.

    .venv/bin/python .ci/mutants.py --sample 20                       # of every target
    .venv/bin/python .ci/mutants.py lab/studies/fit.py --sample 0     # all mutants of one

A mutant changes one comparison, operator, number, condition or returned value. The tests of its target are run in a
fork of this process, which imports the mutated source in place of the file; nothing on disk is changed. Exits with
status 1 where a mutant survives that is not in `equivalent_mutants.txt` beside this file, which says why it may.
"""

from __future__ import annotations

import argparse
import ast
import copy
import dataclasses
import importlib.abc
import importlib.machinery
import os
import pathlib
import random
import resource
import sys
from collections.abc import Iterator

import jax  # noqa: F401  imported once, before the forks
import optax  # noqa: F401
import pytest
import scipy.stats  # noqa: F401

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "big_vision_dual"
EQUIVALENT = pathlib.Path(__file__).with_name("equivalent_mutants.txt")
TARGETS = {  # file or folder of the package: its tests
    "core/norms": "tests/core/norms",
    "core/tables": "tests/core/tables",
    "core/trees.py": "tests/core/test_trees.py",
    "core/files.py": "tests/test_damage.py",
    "core/dualize": "tests/core/dualize",
    "train/optim/durations.py": "tests/train/optim/test_durations.py",
    "train/optim/schedules.py": "tests/train/optim/test_schedules.py",
    "train/optim": "tests/train/optim",
    "train/step.py": "tests/train/test_step.py",
    "train/update.py": "tests/train/test_step.py",
    "lab/studies/fit.py": "tests/lab/studies/test_fit.py",
    "lab/studies/grid.py": "tests/lab/studies/test_grid.py",
    "lab/studies/results.py": "tests/lab/studies/test_results.py",
}
_SWAPPED = [
    (ast.Lt, ast.LtE), (ast.Gt, ast.GtE), (ast.Eq, ast.NotEq), (ast.In, ast.NotIn), (ast.Is, ast.IsNot),
    (ast.Add, ast.Sub), (ast.Mult, ast.Div), (ast.And, ast.Or),
]  # fmt: skip
_OTHER = {a: b for pair in _SWAPPED for a, b in (pair, pair[::-1])} | {
    ast.FloorDiv: ast.Mult, ast.Pow: ast.Mult, ast.MatMult: ast.Mult, ast.Mod: ast.Add,
}  # fmt: skip
_UNREACHED = (ast.Raise, ast.Assert, ast.JoinedStr, ast.Import, ast.ImportFrom)  # texts of errors, above all


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One change. path: of the file in the package; what: 'before -> after'; source: of the whole mutated file."""

    path: str
    line: int
    what: str
    source: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


def mutants(path: pathlib.Path) -> list[Mutant]:
    """All mutants of a file."""
    source = path.read_text()
    name = str(path.relative_to(PACKAGE)) if path.is_relative_to(PACKAGE) else path.name
    tree = ast.parse(source)
    found = []
    for index, node in enumerate(_nodes(tree)):
        for number in range(len(_changes(node))):
            mutated = copy.deepcopy(tree)
            twin = list(_nodes(mutated))[index]
            before = ast.unparse(twin)
            _changes(twin)[number]()
            what = f"{before} -> {ast.unparse(twin)}"
            found.append(Mutant(name, getattr(node, "lineno", 0), what, ast.unparse(mutated)))
    return found


def _nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those of annotations, imports, raised errors and formatted texts, in the order of the source."""
    for field, value in ast.iter_fields(tree):
        if field in ("annotation", "returns", "decorator_list", "type_params"):
            continue
        for node in value if isinstance(value, list) else [value]:
            if isinstance(node, ast.AST) and not isinstance(node, _UNREACHED):
                yield node
                yield from _nodes(node)


def _changes(node: ast.AST) -> list:
    """Functions that change `node` in place, one each."""
    changes = []
    if isinstance(node, ast.Compare):
        for place, operator in enumerate(node.ops):
            changes.append(lambda p=place, o=operator: node.ops.__setitem__(p, _OTHER[type(o)]()))
    elif isinstance(node, ast.BinOp | ast.BoolOp | ast.AugAssign) and type(node.op) in _OTHER:
        changes.append(lambda: setattr(node, "op", _OTHER[type(node.op)]()))
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        changes.append(lambda: setattr(node, "op", ast.UAdd()))
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        changes.append(lambda: setattr(node, "value", not node.value))
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        changes.append(lambda: setattr(node, "value", node.value + 1))
    elif isinstance(node, ast.If | ast.IfExp):
        changes.append(lambda: setattr(node, "test", ast.UnaryOp(ast.Not(), node.test)))
    elif isinstance(node, ast.Return) and node.value is not None:
        changes.append(lambda: setattr(node, "value", ast.Constant(None)))
    return changes


class _Instead(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports a mutant in place of its file."""

    def __init__(self, mutant: Mutant):
        self._path = PACKAGE / mutant.path
        parts = ["big_vision_dual", *pathlib.Path(mutant.path).with_suffix("").parts]
        self._module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        self._source = mutant.source

    def find_spec(self, fullname, path=None, target=None):
        del path, target
        if fullname != self._module:
            return None
        folder = [str(self._path.parent)] if self._path.name == "__init__.py" else None
        spec = importlib.machinery.ModuleSpec(fullname, self, origin=str(self._path), is_package=folder is not None)
        spec.submodule_search_locations = folder
        spec.has_location = True
        return spec

    def exec_module(self, module):
        exec(compile(self._source, str(self._path), "exec"), module.__dict__)


def survives(mutant: Mutant, tests: str, seconds: int) -> bool:
    """Whether the tests pass with the mutant. One that takes more than `seconds` of processor time is noticed."""
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        sys.meta_path.insert(0, _Instead(mutant))
        os._exit(int(pytest.main([str(ROOT / tests), "-q", "-x", "-p", "no:cacheprovider", f"--rootdir={ROOT}"])))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def equivalent() -> set[str]:
    """Mutants that are known to change nothing; a line of the file is 'path: before -> after  # why'."""
    lines = EQUIVALENT.read_text().splitlines() if EQUIVALENT.is_file() else []
    return {line.partition("  # ")[0] for line in lines if line.strip()}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", help=f"default: all of {', '.join(TARGETS)}")
    parser.add_argument("--sample", type=int, default=10, help="mutants of each target, drawn; 0: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=int, default=300, help="of processor time, for the tests of one mutant")
    arguments = parser.parse_args()
    unknown = [target for target in arguments.targets if target not in TARGETS]
    if unknown:
        parser.error(f"no target {unknown[0]!r}; possible: {', '.join(TARGETS)}")
    return arguments


def main() -> int:
    given = _arguments()
    os.environ["JAX_PLATFORMS"] = "cpu"
    sys.path.insert(0, str(ROOT))
    known, lived, tried = equivalent(), 0, 0
    for target in given.targets or TARGETS:
        files = sorted((PACKAGE / target).rglob("*.py")) if (PACKAGE / target).is_dir() else [PACKAGE / target]
        every = [mutant for file in files for mutant in mutants(file) if str(mutant) not in known]
        path = str(files[0].relative_to(PACKAGE))
        if not survives(Mutant(path, 0, "nothing", files[0].read_text()), TARGETS[target], given.seconds):
            print(f"{TARGETS[target]} fails without a change, or takes more than {given.seconds} s")
            return 2
        chosen = random.Random(given.seed).sample(every, min(given.sample or len(every), len(every)))
        for mutant in chosen:
            tried += 1
            if survives(mutant, TARGETS[target], given.seconds):
                lived += 1
                print(f"survives, line {mutant.line}: {mutant}", flush=True)
        print(f"{target}: {len(chosen)} of {len(every)} mutants tried", flush=True)
    print(f"{lived} of {tried} survive")
    return 1 if lived else 0


if __name__ == "__main__":
    sys.exit(main())
