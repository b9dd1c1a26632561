"""The tool that asks whether the tests notice: the changes that it makes, and that they are what is imported."""

from __future__ import annotations

import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def mutants():
    spec = importlib.util.spec_from_file_location("mutants", ROOT / ".ci" / "mutants.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutants"] = module  # its dataclass looks itself up
    spec.loader.exec_module(module)
    return module


def test_each_mutant_changes_one_thing(mutants, tmp_path):
    file = tmp_path / "some.py"
    file.write_text(
        "def f(a: int = 3) -> bool:\n"
        "    '''Text.'''\n"
        "    if a % 2 == 0 and a < 9:\n"
        "        raise ValueError(f'{a - 1}')\n"
        "    f(zip(a, strict=True))\n"
        "    return -a * 2.5 > 1\n"
    )
    found = [mutant.what for mutant in mutants.mutants(file)]
    for what in ("a < 9 -> a <= 9", "3 -> 4", "a % 2 -> a + 2", "a % 2 == 0 -> a % 2 != 0", "-a -> +a",
                 "-a * 2.5 -> -a / 2.5", "2.5 -> 3.5", "return -a * 2.5 > 1 -> return None"):  # fmt: skip
        assert what in found, what
    assert any(" and " in what and " or " in what for what in found)
    assert not any("a - 1" in what.partition(" -> ")[2] and "raise" not in what for what in found)
    assert len({mutant.source for mutant in mutants.mutants(file)}) == len(found) == 15


def test_targets_and_their_tests_exist(mutants):
    for target, tests in mutants.TARGETS.items():
        assert (mutants.PACKAGE / target).exists(), target
        assert all((ROOT / test).exists() for test in tests), tests


def test_a_mutant_is_imported_in_place_of_its_file(mutants):
    every = mutants.mutants(mutants.PACKAGE / "train/optim/durations.py")
    (quarter,) = [mutant for mutant in every if mutant.what == "4 -> 5"]
    finder = mutants._Instead(quarter.path, quarter.source)
    spec = finder.find_spec("big_vision_dual.train.optim.durations")
    module = importlib.util.module_from_spec(spec)
    finder.exec_module(module)
    assert module.fires(20, 5, 21) is True  # 1 >= 5 / 5, but less than the quarter of 5 that it should be
    assert finder.find_spec("big_vision_dual.train.optim") is None


def test_processes_that_a_test_starts_import_the_mutant_too(mutants, tmp_path):
    every = mutants.mutants(mutants.PACKAGE / "train/optim/durations.py")
    (quarter,) = [mutant for mutant in every if mutant.what == "4 -> 5"]
    (tmp_path / "sitecustomize.py").write_text(mutants._at_start(quarter))
    code = "from big_vision_dual.train.optim import durations; print(durations.fires(20, 5, 21))"
    for folder, said in (("", "False"), (tmp_path, "True")):
        path = os.pathsep.join([str(folder), str(ROOT)])
        done = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
        )
        assert done.stdout == f"{said}\n", done.stderr


def test_a_mutant_is_met_by_the_tests_that_run_its_statement_the_fastest_first(mutants, tmp_path):
    file = tmp_path / "some.py"
    file.write_text("LIMIT = 3\n\ndef f(a):\n    if (\n        a < 2\n    ):\n        a = a + 1\n    return a\n")
    limit, smaller, *_, grown = [one for one in mutants.mutants(file) if one.what in ("3 -> 4", "a < 2 -> a <= 2",
                                                                                     "a + 1 -> a - 1")]  # fmt: skip
    assert [one.lines for one in (limit, smaller, grown)] == [range(1, 2), range(4, 7), range(7, 8)]
    assert str(grown) == "some.py: a + 1 -> a - 1, in: a = a + 1"
    owners = {("some.py", 1): {""}, ("some.py", 5): {"x.py", "y.py::one"}, ("some.py", 7): {"y.py::two"}}
    covered = mutants.Covered(owners, {"x.py::slow": 2.0, "y.py::one": 1.0, "y.py::two": 0.5})
    assert covered.tests(limit) == ["y.py::two", "y.py::one", "x.py::slow"]  # run by an import
    assert covered.tests(smaller) == ["y.py::one", "x.py::slow"]  # by a fixture of x.py, and by a test
    assert covered.tests(grown) == ["y.py::two"]
    elsewhere = mutants.Covered({}, covered.seconds, frozenset({"y.py::one"}))  # the one that starts a process
    assert elsewhere.tests(grown) == ["y.py::one"]


def test_coverage_is_recorded_and_a_mutant_that_no_test_runs_survives(mutants, tmp_path, monkeypatch):
    monkeypatch.setattr(mutants, "PACKAGE", tmp_path)
    file = tmp_path / "some.py"
    file.write_text("def f():\n    return 1\n")
    scope: dict = {}
    coverage, before = mutants._Coverage([file]), sys.gettrace()
    sys.settrace(None)
    exec(compile(file.read_text(), str(file), "exec"), scope)
    for name, call in (("x.py::one", scope["f"]), ("x.py::two", int)):
        run = coverage.pytest_runtest_protocol(type("Item", (), {"nodeid": name}))
        next(run)
        sys.settrace(coverage._call)
        call()
        sys.settrace(None)
        with pytest.raises(StopIteration):
            run.send(None)
    sys.settrace(before if before != coverage._call else None)
    assert coverage.owners == {("some.py", 2): {"x.py::one"}}
    assert set(coverage.seconds) == {"x.py::one", "x.py::two"}
    assert mutants.survives(mutants.mutants(file)[0], [], 1)
