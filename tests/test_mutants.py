"""The tool that asks whether the tests notice: the changes that it makes, and that they are what is imported."""

from __future__ import annotations

import importlib.util
import pathlib
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
        assert (ROOT / tests).exists(), tests


def test_a_mutant_is_imported_in_place_of_its_file(mutants):
    every = mutants.mutants(mutants.PACKAGE / "train/optim/durations.py")
    (quarter,) = [mutant for mutant in every if mutant.what == "4 -> 5"]
    finder = mutants._Instead(quarter)
    spec = finder.find_spec("big_vision_dual.train.optim.durations")
    module = importlib.util.module_from_spec(spec)
    finder.exec_module(module)
    assert module.fires(20, 5, 21) is True  # 1 >= 5 / 5, but less than the quarter of 5 that it should be
    assert finder.find_spec("big_vision_dual.train.optim") is None
