"""A tiny data set and config, and one compilation cache for all tests and the processes they start."""

from __future__ import annotations

import os
import pathlib
import socket
import subprocess
import sys

import devices
import jax
import numpy as np
import pytest

from big_vision_dual.train import recipes

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


@pytest.fixture(scope="session")
def pod(environment):
    """() -> environments of 2 processes of 4 CPU devices, to be joined by jax.distributed over localhost."""

    def variables():
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            address = f"localhost:{probe.getsockname()[1]}"
        shared = {
            "XLA_FLAGS": devices.flags(4),
            "JAX_COORDINATOR_ADDRESS": address,
            "JAX_NUM_PROCESSES": "2",
            "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
        }
        return [{**environment, **shared, "JAX_PROCESS_ID": str(rank)} for rank in range(2)]

    return variables


@pytest.fixture
def train_process(environment):
    """(workdir, *overrides, model=, env=) -> a started `python -m big_vision_dual.train`, its output in a pipe."""
    processes = []

    def start(workdir, *overrides, model="vit", env=environment):
        command = [sys.executable, "-u", "-m", "big_vision_dual.train", "--config", f"{CONFIG}:{model}"]
        process = subprocess.Popen(
            [*command, "--workdir", str(workdir), *overrides], env=env, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()
