"""The plug-in, by the config file of docs/upstream.md, in a process of its own that does what upstream does."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest

import big_vision_dual.upstream  # noqa: F401
from big_vision_dual import models
from big_vision_dual.core import dualize, tables, trees
from big_vision_dual.models import weights

ROOT = pathlib.Path(__file__).parents[2]
BASELINE = """
import ml_collections

def get_config():
    config = ml_collections.ConfigDict(dict(num_classes=10, lr=1e-3, grad_clip_norm=1.0, total_steps=8))
    config.freeze, config.model_init = "", ""
    config.optax_name, config.optax = "scale_by_adam", dict(mu_dtype="bfloat16")
    config.model_name, config.model = "vit", dict(variant="S/16")
    return config
"""


@pytest.fixture(scope="module")
def upstream(tmp_path_factory):
    """A folder with a package big_vision, the config of the docs, and a table and weights for it at size mu/16."""
    folder = tmp_path_factory.mktemp("upstream")
    for package in ("big_vision", "big_vision/models", "big_vision/configs"):
        (folder / package).mkdir()
        (folder / package / "__init__.py").touch()
    shutil.copy(pathlib.Path(__file__).parent / "standin_train.py", folder / "big_vision" / "train.py")
    (folder / "big_vision" / "configs" / "vit_s16_i1k.py").write_text(BASELINE)
    block = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "upstream.md").read_text(), re.S)
    assert block
    (folder / "my_config.py").write_text(block[1])
    options = {"variant": "mu/16", "pool_type": "gap", "posemb": "sincos2d", "scaling": "dual"}
    model = models.get("vit").Model(10, **options)
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))["params"]
    tables.save(tables.flat(shapes), folder / "mu16.json")
    weights.save(trees.map_with_path(lambda _, leaf: np.full(leaf.shape, 0.5, leaf.dtype), shapes), folder / "mu16.npz")
    return folder


def train(folder, *overrides):
    small = [f"--config.optax.table={folder}/mu16.json", "--config.model.variant=mu/16"]
    command = [sys.executable, "-m", "big_vision.train", f"--config={folder}/my_config.py", *small, *overrides]
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": f"{folder}:{ROOT}"}
    ran = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=240)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return json.loads(ran.stdout.splitlines()[-1])


def test_the_config_of_the_docs_trains_with_frozen_leaves_and_loads_weights(upstream):
    result = train(upstream, f"--config.model_init={upstream}/mu16.npz", "--config.freeze=embedding")
    assert result["losses"][-1] < result["losses"][0] - 0.1
    assert result["counts"] == 1  # Big Vision takes the first ScaleByScheduleState for its step
    assert result["loaded"] == 0.5


def test_registered_names():
    assert optax.big_vision_dual.scale_by_dualize is dualize.scale_by_dualize  # pyright: ignore
    for name in models.MODELS:
        assert {"Model", "load"} <= set(dir(sys.modules[f"big_vision.models.dual_{name}"]))


def test_the_table_that_the_docs_name_exists():
    assert tables.load("vit_s16_i1k").model["variant"] == "S/16"
