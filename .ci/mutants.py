"""Small wrong changes to the code that the tests should notice: each survivor is a missing test, or changes nothing.

    .venv/bin/python .ci/mutants.py --sample 20                       # of every target
    .venv/bin/python .ci/mutants.py lab/studies/fit.py --sample 0     # all mutants of one

A mutant changes one comparison, operator, number, condition or returned value. Those tests of its target that run the
changed lines are run in a fork of this process, which imports the mutated source in place of the file, and so do the
processes that it starts; lines that no test runs itself meet those tests that start some. Nothing on disk is changed.
Exits with status 1 where a mutant survives that is not in `equivalent_mutants.txt` beside this file, which says why it
may. With --out FILE, what was tried is kept there and not tried again.
"""

from __future__ import annotations

import argparse
import ast
import collections
import copy
import dataclasses
import importlib.abc
import importlib.machinery
import inspect
import json
import os
import pathlib
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import flax.linen  # noqa: F401  imported once, before the forks
import jax  # noqa: F401
import ml_collections  # noqa: F401
import optax  # noqa: F401
import pytest
import scipy.stats  # noqa: F401

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "big_vision_dual"
EQUIVALENT = pathlib.Path(__file__).with_name("equivalent_mutants.txt")
TARGETS = {  # file or folder of the package: its tests
    "core/norms": ("tests/core/norms",),
    "core/tables": ("tests/core/tables",),
    "core/trees.py": ("tests/core/test_trees.py",),
    "core/files.py": ("tests/core/test_files.py",),
    "core/rules.py": ("tests/core/test_rules.py",),
    "core/measured.py": ("tests/core/test_measured.py",),
    "core/dualize": ("tests/core/dualize", "tests/core/test_trees.py", "tests/train/test_momentum_layout.py"),
    "train/optim": ("tests/train/optim",),
    "train/step.py": ("tests/train/test_step.py",),
    "train/update.py": ("tests/train/test_step.py",),
    "lab/studies/fit.py": ("tests/lab/studies/test_fit.py",),
    "lab/studies/grid.py": ("tests/lab/studies/test_grid.py",),
    "lab/studies/results.py": ("tests/lab/studies/test_results.py",),
}
_LEFT_OUT = "not every_leaf_of_a_vit and not linear_time"  # pytest's -k: takes minutes; times itself
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
    """One change.

    path: of the file in the package. lines, statement: where, or the head of what; with a number where the same change
    can be made twice. what: 'before -> after'. source: of the whole mutated file.
    """

    path: str
    lines: range
    statement: str
    what: str
    source: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}, in: {self.statement}"


def mutants(path: pathlib.Path) -> list[Mutant]:
    """All mutants of a file."""
    source = path.read_text()
    name = str(path.relative_to(PACKAGE)) if path.is_relative_to(PACKAGE) else path.name
    tree = ast.parse(source)
    found = []
    heads = {_head(node): ast.unparse(node).partition("\n")[0] for node in ast.walk(tree) if isinstance(node, ast.stmt)}
    seen: collections.Counter[tuple[str, str]] = collections.Counter()
    for index, node in enumerate(_nodes(tree)):
        for number in range(len(_changes(node))):
            mutated = copy.deepcopy(tree)
            twin = list(_nodes(mutated))[index]
            before = ast.unparse(twin)
            _changes(twin)[number]()
            what = f"{before} -> {ast.unparse(twin)}"
            line = getattr(node, "lineno", 0)
            lines = min((head for head in heads if line in head), key=len)
            statement = heads[lines]
            seen[what, statement] += 1
            twice = f" ({seen[what, statement]})" if seen[what, statement] > 1 else ""
            found.append(Mutant(name, lines, statement + twice, what, ast.unparse(mutated)))
    return found


def _head(statement: ast.stmt) -> range:
    """Its lines; of one with a body those before the body."""
    body = getattr(statement, "body", None)
    end = body[0].lineno - 1 if body else statement.end_lineno or statement.lineno
    return range(statement.lineno, max(end, statement.lineno) + 1)


def _nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those of annotations, imports, checks, raised errors and formatted texts, in the source's order."""
    for field, value in ast.iter_fields(tree):
        if field in ("annotation", "returns", "decorator_list", "type_params"):
            continue
        for node in value if isinstance(value, list) else [value]:
            if isinstance(node, ast.AST) and not isinstance(node, _UNREACHED) and not _is_check(node):
                yield node
                yield from _nodes(node)


def _is_check(node: ast.AST) -> bool:
    """`strict=True` of zip and map, which asserts what holds."""
    return isinstance(node, ast.keyword) and node.arg == "strict"


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
    """Imports a mutated source in place of a file of the package. Its own source goes into other processes too."""

    def __init__(self, path, source):
        self._path = PACKAGE / path
        parts = ["big_vision_dual", *pathlib.Path(path).with_suffix("").parts]
        self._module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        self._source = source

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


class _Coverage:
    """A pytest plugin: which tests run which lines of `files`, and how long each takes.

    A line belongs to the test that runs it; one of a fixture of a wider scope to the whole file of tests, and one that
    is run by an import to all. owners: {(path, line): {'test', 'file of tests' or ''}}; starting: those that start a
    process; seconds: {test: its time}.
    """

    def __init__(self, files: list[pathlib.Path]):
        self._files = {str(file): str(file.relative_to(PACKAGE)) for file in files}
        self._owner = ""
        self.owners: dict[tuple[str, int], set[str]] = {}
        self.starting: set[str] = set()
        self.seconds: dict[str, float] = {}
        sys.settrace(self._call)

    def _call(self, frame: Any, event: str, argument: Any) -> Any:
        del event, argument
        if frame.f_code is subprocess.Popen.__init__.__code__:
            self.starting.add(self._owner)
        return self._line if frame.f_code.co_filename in self._files else None

    def _line(self, frame: Any, event: str, argument: Any) -> Any:
        del event, argument
        where = (self._files[frame.f_code.co_filename], frame.f_lineno)
        self.owners.setdefault(where, set()).add(self._owner)
        return self._line

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef, request):
        outer = self._owner
        if fixturedef.scope != "function":
            self._owner = str(request.node.nodeid).partition("::")[0] if fixturedef.scope != "session" else ""
        try:
            return (yield)
        finally:
            self._owner = outer

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        self._owner, started = item.nodeid, time.monotonic()
        try:
            return (yield)
        finally:
            self._owner = ""
            self.seconds[item.nodeid] = time.monotonic() - started


@dataclasses.dataclass(frozen=True)
class Covered:
    """Tests of a target. owners, seconds, starting: see _Coverage."""

    owners: dict[tuple[str, int], set[str]]
    seconds: dict[str, float]
    starting: frozenset[str] = frozenset()

    def tests(self, mutant: Mutant) -> list[str]:
        """Those that run its lines, or may in another process where none does; the fastest first."""
        owners = set().union(*(self.owners.get((mutant.path, line), ()) for line in mutant.lines)) or self.starting
        chosen = [test for test in self.seconds if owners & {"", test, test.partition("::")[0]}]
        return sorted(chosen, key=lambda test: self.seconds[test])


def covered(files: list[pathlib.Path], tests: tuple[str, ...]) -> Covered | None:
    """Runs the tests on the code as it is; None where they fail."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _silent()
        coverage = _Coverage(files)
        status = _pytest([str(ROOT / test) for test in tests], coverage)
        sys.settrace(None)
        with os.fdopen(writing, "w") as answer:
            owners = [(*key, list(value)) for key, value in coverage.owners.items()]
            json.dump([owners, coverage.seconds, list(coverage.starting)], answer)
        os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as answer:
        text = answer.read()
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        return None
    owners, seconds, starting = json.loads(text)
    return Covered({(path, line): set(who) for path, line, who in owners}, seconds, frozenset(starting))


def survives(mutant: Mutant, tests: list[str], seconds: float) -> bool:
    """Whether the tests pass with the mutant. One that takes more than `seconds` of processor time is noticed."""
    if not tests:
        return True
    with tempfile.TemporaryDirectory(prefix="bvd-mutant-") as folder:
        pathlib.Path(folder, "sitecustomize.py").write_text(_at_start(mutant))
        child = os.fork()
        if child == 0:
            resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds)))
            _silent()
            os.environ["PYTHONPATH"] = os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")])
            sys.meta_path.insert(0, _Instead(mutant.path, mutant.source))
            os._exit(_pytest([f"{ROOT}/{test}" for test in tests]))
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _at_start(mutant: Mutant) -> str:
    """What a Python process runs before anything else, to import the mutant."""
    return (
        f"import importlib.abc, importlib.machinery, pathlib, sys\n\nPACKAGE = pathlib.Path({str(PACKAGE)!r})\n\n"
        f"{inspect.getsource(_Instead)}\nsys.meta_path.insert(0, _Instead({mutant.path!r}, {mutant.source!r}))\n"
    )


def _silent() -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)


def _pytest(tests: list[str], *plugins: object) -> int:
    return int(
        pytest.main([*tests, "-q", "-x", "-k", _LEFT_OUT, "-p", "no:cacheprovider", f"--rootdir={ROOT}"], list(plugins))
    )


def equivalent() -> set[str]:
    """Mutants that are known to change nothing; a line of the file is 'path: before -> after  # why'."""
    lines = EQUIVALENT.read_text().splitlines() if EQUIVALENT.is_file() else []
    return {line.partition("  # ")[0] for line in lines if line.strip()}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", help=f"default: all of {', '.join(TARGETS)}")
    parser.add_argument("--sample", type=int, default=10, help="mutants of each target, drawn; 0: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, help="a file of JSON lines: what was tried, and is not tried again")
    arguments = parser.parse_args()
    unknown = [target for target in arguments.targets if target not in TARGETS]
    if unknown:
        parser.error(f"no target {unknown[0]!r}; possible: {', '.join(TARGETS)}")
    return arguments


def main() -> int:
    given = _arguments()
    with tempfile.TemporaryDirectory(prefix="bvd-mutants-") as cache:
        os.environ.update(JAX_PLATFORMS="cpu", **_FAST, JAX_COMPILATION_CACHE_DIR=cache)
        sys.path.insert(0, str(ROOT))
        tried = [outcome for target in given.targets or TARGETS for outcome in _try(target, given)]
    lived = sum(tried)
    print(f"{lived} of {len(tried)} survive")
    return 1 if lived else 0


_FAST = {
    "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


def _try(target: str, given: argparse.Namespace) -> Iterator[bool]:
    """Whether each chosen mutant of a target survives."""
    files = sorted((PACKAGE / target).rglob("*.py")) if (PACKAGE / target).is_dir() else [PACKAGE / target]
    known, before = equivalent(), _before(given.out)
    every = [mutant for file in files for mutant in mutants(file) if str(mutant) not in known]
    chosen = random.Random(given.seed).sample(every, min(given.sample or len(every), len(every)))
    tests = covered(files, TARGETS[target]) if any(str(mutant) not in before for mutant in chosen) else None
    lived = 0
    for mutant in chosen:
        alive = before.get(str(mutant))
        if alive is None:
            if tests is None:
                sys.exit(f"{' '.join(TARGETS[target])}: a test fails without a change")
            those = tests.tests(mutant)
            alive = survives(mutant, those, _START + 5 * sum(tests.seconds[test] for test in those))
            if given.out:
                with given.out.open("a") as out:
                    out.write(json.dumps({"target": target, "mutant": str(mutant), "survives": alive}) + "\n")
        if alive:
            lived += 1
            print(f"survives, line {mutant.lines.start}: {mutant}", flush=True)
        yield alive
    print(f"{target}: {lived} of {len(chosen)} survive, of {len(every)} that there are", flush=True)


_START = 60  # seconds of processor time for the imports


def _before(out: pathlib.Path | None) -> dict[str, bool]:
    """{mutant: whether it survived} of the file of before."""
    lines = out.read_text().splitlines() if out and out.exists() else []
    return {line["mutant"]: line["survives"] for line in map(json.loads, lines)}


if __name__ == "__main__":
    sys.exit(main())
