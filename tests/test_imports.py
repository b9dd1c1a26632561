"""Imports point down the list of docs/architecture.md, and TensorFlow and JAX stay where they belong."""

from __future__ import annotations

import ast
import importlib
import pathlib
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).parent.parent / "big_vision_dual"
WINGS = ({"cli"}, {"lab", "pods"}, {"upstream"}, {"train"}, {"models"}, {"core"})
"""Highest first; wings of one line may not import each other."""
ROOMS_OF_TRAIN = ({"evaluators"}, {"data"}, {"pp"}, {"optim"}, {"losses", "recipes"},
                  {"big_vision", "schema"}, {"fields"})  # fmt: skip
"""The folders and shared files of `train`, below all its other files."""
NO_JAX = {"core/tables", "core/norms", "core/errors", "core/files", "models/arch", "train/recipes", "train/big_vision",
           "train/schema", "train/fields", "train/run_files", "train/changes"}  # fmt: skip
ML = {"jax", "flax", "optax", "orbax"}
TENSORFLOW = {"tensorflow", "tensorflow_datasets"}


def modules() -> list[pathlib.Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.name == "upstream.py")


def place(dotted: str) -> tuple[int, int]:
    """(rank of the wing, rank inside it); higher is lower in the house."""
    wing, *inside = dotted.split(".")
    ranks = {name: rank for rank, names in enumerate(WINGS) for name in names}
    assert wing in ranks, f"{wing} is not in WINGS: give it its place"
    of_train = {name: rank for rank, names in enumerate(ROOMS_OF_TRAIN, 1) for name in names}
    return ranks[wing], of_train.get(inside[0], 0) if wing == "train" and inside else 0


def dotted(path: pathlib.Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


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
    here = dotted(path)
    for name in imported(path):
        top, _, rest = name.partition(".")
        if top in ML:
            assert not any(here.replace(".", "/").startswith(room) for room in NO_JAX), f"{path} imports {name}"
        if top in TENSORFLOW:
            assert here.startswith(("train.data", "train.pp")), f"{path} imports {name}"
        if top == "big_vision_dual" and rest.partition(".")[0] != "__version__":
            (wing, room), (its_wing, its_room) = place(here), place(rest)
            same = here.split(".")[0] == rest.split(".")[0]
            below = its_room >= room if same else its_wing > wing
            assert below, f"{path} imports {name}, which is not below it"


def test_the_library_starts_without_tensorflow_and_tables_without_jax():
    script = (
        "import sys, big_vision_dual as bvd; bvd.load_table('vit_s16_i1k');"
        "assert not {'jax', 'numpy'} & set(sys.modules), 'tables import JAX or NumPy';"
        "bvd.scale_by_dualize; import big_vision_dual.train.step, big_vision_dual.train.data;"
        "assert 'tensorflow' not in sys.modules, 'the library imports TensorFlow'"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("big_vision_dual.losses", "big_vision_dual.train.losses"),
        ("big_vision_dual.norms.zoo", "big_vision_dual.models.norm_trees"),
        ("big_vision_dual.optim.schedules", "big_vision_dual.train.optim.schedules"),
    ],
)
def test_names_of_before_0_2_lead_to_the_same_module(old, new):
    for name in [name for name in sys.modules if name == old or (old.startswith(f"{name}.") and name.count("."))]:
        sys.modules.pop(name)
    with pytest.warns(DeprecationWarning, match="is now") as warned:  # of the package that it was in, too
        assert importlib.import_module(old) is importlib.import_module(new)
    assert any(f"{old} is now {new}" in str(warning.message) for warning in warned)
