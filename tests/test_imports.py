"""Imports point down the list of docs/architecture.md, and TensorFlow and JAX stay where they belong."""

from __future__ import annotations

import ast
import pathlib
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).parent.parent / "big_vision_dual"
LAYERS = (  # highest first; packages of one line may not import each other
    {"cli"}, {"train"}, {"demo"}, {"studies"}, {"report"}, {"launch"}, {"trainer"}, {"evaluators"}, {"data"}, {"pp"},
    {"upstream"}, {"optim"}, {"models", "dualize"}, {"tables"}, {"norms"}, {"arch_ssm"},
    {"arch", "losses", "mistakes", "recipes", "trees"},
)  # fmt: skip
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
NO_JAX = {"tables", "norms", "arch", "arch_ssm", "mistakes", "recipes", "trees"}
ML = {"jax", "flax", "optax", "orbax"}
TENSORFLOW = {"tensorflow", "tensorflow_datasets"}


def modules() -> list[pathlib.Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" or path.parent != PACKAGE)


def unit(path: pathlib.Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: pathlib.Path) -> list[str]:
    """Absolute names of everything that a file imports, at top level or inside functions."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    here = unit(path)
    assert here in RANK, f"{here} is not in LAYERS: give it its place"
    for name in imported(path):
        top, _, rest = name.partition(".")
        if top in ML:
            assert here not in NO_JAX, f"{path} imports {name}"
        if top in TENSORFLOW:
            assert here in {"data", "pp"}, f"{path} imports {name}"
        if top == "big_vision_dual" and rest.split(".")[0] in RANK:
            there = rest.split(".")[0]
            assert there == here or RANK[there] > RANK[here], f"{path} imports {name}, which is not below it"


def test_the_library_starts_without_tensorflow_and_tables_without_jax():
    script = (
        "import sys, big_vision_dual as bvd; bvd.load_table('vit_s16_i1k');"
        "assert 'jax' not in sys.modules, 'tables import JAX';"
        "bvd.scale_by_dualize; import big_vision_dual.trainer.step, big_vision_dual.data;"
        "assert 'tensorflow' not in sys.modules, 'the library imports TensorFlow'"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
