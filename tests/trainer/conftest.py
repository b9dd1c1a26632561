"""A tiny data set and config, and one compilation cache for all tests and the processes they start."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from big_vision_dual import recipes

CONFIG = pathlib.Path(__file__).parent / "tiny_config.py"
_FAST_COMPILE = {
    "jax_disable_most_optimizations": 1,
    "jax_persistent_cache_min_compile_time_secs": 0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """Environment variables of the tests' processes; set in this one too."""
    folder = tmp_path_factory.mktemp("trainer")
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (140, 8, 8, 3), np.uint8), np.arange(140) % 5
    images[:, :4, :4, 0] = 40 * labels[:, None, None]  # something to learn
    np.savez(
        folder / "data.npz", train_image=images[:100], train_label=labels[:100], test_image=images[100:],
        test_label=labels[100:],
    )  # fmt: skip
    settings = {**_FAST_COMPILE, "jax_compilation_cache_dir": str(folder / "cache")}
    variables = {key.upper(): str(value) for key, value in settings.items()}
    variables |= {"DATA": str(folder / "data.npz"), "JAX_PLATFORMS": "cpu", "WANDB_MODE": "offline"}
    before = {key: jax.config.values[key] for key in settings}
    with pytest.MonkeyPatch.context() as patch:
        for key, value in variables.items():
            patch.setenv(key, value)
        for key, value in settings.items():
            jax.config.update(key, value)
        yield {**os.environ, **variables}
    for key, value in before.items():
        jax.config.update(key, value)


@pytest.fixture
def tiny(environment):
    """(*overrides, model='vit') -> the tiny config with them, '--config.lr=1' for instance."""
    del environment
    return lambda *overrides, model="vit": recipes.load(f"{CONFIG}:{model}", overrides)


@pytest.fixture
def train_process(environment):
    """(workdir, *overrides) -> a started `python -m big_vision_dual.train`, its output in a pipe."""
    processes = []

    def start(workdir, *overrides):
        command = [sys.executable, "-u", "-m", "big_vision_dual.train", "--config", str(CONFIG)]
        process = subprocess.Popen(
            [*command, "--workdir", str(workdir), *overrides], env=environment, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()
