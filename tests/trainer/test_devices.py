"""One loss curve, however many devices and processes compute it, blocks looped or scanned."""

from __future__ import annotations

import json
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

CURVE = pathlib.Path(__file__).parent / "curve.py"
FSDP = {"sharding_strategy": [["(params|opt_state)/.*", "fsdp(axis='data', min_size_to_shard_mb=0)"]]}
DUAL = {"optax_name": "big_vision_dual.scale_by_dualize", "model.scaling": "dual", "lr": 1.0}


def start(environment, devices, variants, **variables):
    environment = {**environment, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", **variables}
    return subprocess.Popen(
        [sys.executable, str(CURVE), json.dumps(variants)], env=environment, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip


def result(process):
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-3000:]
    return json.loads(output.splitlines()[-1]) if output else {}


@pytest.fixture(scope="module")
def one_process(environment):
    """Curves of one process with 8 devices."""
    two_blocks = str(pathlib.Path(environment["DATA"]).with_name("two blocks.npz"))
    variants = {
        "1 device": [1, {}],
        "8 devices": [0, {}],
        "fsdp": [0, FSDP],
        "accumulation": [0, {"input.accum_freq": 4}],
        "2 x 4 mesh": [0, {"mesh": [["replica", 2], ["data", 4]]}],
        "two blocks": [1, {"model.depth": 2}],
        "two scanned": [1, {"model.depth": 2, "model.scan": True, "model_init": two_blocks}],
        "dual, 1 device": [1, DUAL],
        "dual, sharded": [0, {**DUAL, "optax": {"shard_axis": "data"}}],
    }
    return result(start(environment, 8, variants))


@pytest.fixture(scope="module")
def two_processes(environment):
    """Curves of 2 processes of 4 devices, joined by jax.distributed over localhost."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    variables = {
        "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
        "JAX_NUM_PROCESSES": "2",
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
    }
    variants = {"replicated": [0, {}], "fsdp": [0, FSDP]}
    processes = [start(environment, 4, variants, **variables, JAX_PROCESS_ID=str(rank)) for rank in range(2)]
    results = [result(process) for process in processes]
    return results[0]


@pytest.mark.parametrize("variant", ["8 devices", "fsdp", "accumulation", "2 x 4 mesh"])
def test_devices_do_not_change_the_curve(one_process, variant):
    assert len(set(one_process["1 device"])) == 4
    np.testing.assert_allclose(one_process[variant], one_process["1 device"], rtol=1e-5)


def test_scanned_blocks_do_not_change_the_curve(one_process):
    np.testing.assert_allclose(one_process["two scanned"], one_process["two blocks"], rtol=1e-5)


def test_sharded_dualization_does_not_change_the_curve(one_process):
    """Looser: newton_schulz_6 amplifies the rounding of gradients with small singular values."""
    np.testing.assert_allclose(one_process["dual, sharded"], one_process["dual, 1 device"], rtol=1e-4)


@pytest.mark.parametrize("variant", ["replicated", "fsdp"])
def test_processes_do_not_change_the_curve(one_process, two_processes, variant):
    np.testing.assert_allclose(two_processes[variant], one_process["1 device"], rtol=1e-5)
