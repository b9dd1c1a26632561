"""The wheel with its core dependencies alone, in a fresh environment; and which extra brings what else is imported."""

import ast
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest

from big_vision_dual.core import errors, extras

ROOT = pathlib.Path(__file__).parent.parent.parent
DISTRIBUTIONS = {"absl": "absl-py", "orbax": "orbax-checkpoint", "tensorflow": "tensorflow-cpu"}
UNREACHABLE = ("NewConnectionError", "name resolution", "No matching distribution found", "Could not fetch URL")
ALONE = """
import sys
import big_vision_dual as bvd
n = bvd.norms
table = bvd.build_table(n.dense("out", 4, 3) @ n.RELU @ n.dense("in", 2, 4))
print(table)
bvd.load_table("vit_s16_i1k")
assert not {"jax", "numpy"} & set(sys.modules), "tables need the standard library only"
import jax, jax.numpy as jnp
params = {name: {"kernel": jnp.ones(shape), "bias": jnp.ones(shape[1:])} for name, shape in
          (("in", (2, 4)), ("out", (4, 3)))}
tx = bvd.dualized(table, 0.1, weight_decay=0.01)
updates, _ = tx.update(params, tx.init(params), params)
assert all(bool(jnp.all(leaf < 0)) for leaf in jax.tree.leaves(updates))
assert not {"flax", "orbax", "rich", "etils"} & set(sys.modules)
"""


def run(*command, **options):
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The python of an environment that has the wheel and what it requires."""
    folder = tmp_path_factory.mktemp("alone")
    for command in (
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder / "wheel", ROOT],
        [sys.executable, "-m", "venv", folder / "venv"],
        [folder / "venv/bin/pip", "install", "-q", "--no-compile", folder / "wheel"],
    ):
        if command[-1] == folder / "wheel":
            command[-1] = next((folder / "wheel").glob("*.whl"))
        done = run(*command)
        if done.returncode and any(word in done.stderr for word in UNREACHABLE):
            pytest.skip(f"pip reaches no index: {done.stderr.strip().splitlines()[-1]}")
        assert done.returncode == 0, done.stderr
    return folder / "venv/bin/python"


def test_the_core_alone_builds_prints_and_dualizes(alone, tmp_path):
    done = run(alone, "-c", ALONE, cwd=tmp_path, env={"JAX_PLATFORMS": "cpu", "PATH": "/usr/bin:/bin"})
    assert done.returncode == 0, done.stderr
    assert "out/kernel" in done.stdout
    assert "sensitivity 1" in done.stdout
    installed = run(alone, "-m", "pip", "list", "--format=freeze").stdout.lower()
    assert not re.search("^(flax|orbax|tensorflow|wandb|rich|matplotlib)", installed, re.M)


@pytest.mark.parametrize("line", ["train --config=mnist5k_vit --workdir=w", "norms show vit_s16_i1k"])
def test_a_missing_extra_is_one_line(alone, tmp_path, line):
    command = line.split()
    done = run(alone.with_name("bvd"), *command, cwd=tmp_path)
    assert done.returncode == errors.STATUS
    said = r"this needs \w+, which is not installed: pip install 'big_vision_dual\[train\]'\n"
    assert re.fullmatch(f"bvd {command[0]}: {said}", done.stderr)


def test_every_import_is_of_the_core_or_of_an_extra():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    brought = {extra: {re.split(r"[\[<>=]", line)[0] for line in lines}
               for extra, lines in project["optional-dependencies"].items()}  # fmt: skip
    for package, extra in extras.PACKAGES.items():
        assert DISTRIBUTIONS.get(package, package.replace("_", "-")) in {
            name.replace("_", "-") for name in brought[extra]
        }
    core = {"jax", "numpy", "optax", "big_vision_dual", "scipy"}  # JAX requires SciPy
    imported = {name for path in (ROOT / "big_vision_dual").rglob("*.py") for name in tops(path)}
    unknown = imported - core - set(extras.PACKAGES) - set(sys.stdlib_module_names)
    assert not unknown


def tops(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]
