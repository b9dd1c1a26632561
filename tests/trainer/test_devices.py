"""One loss curve, however many devices and processes compute it, blocks looped or scanned."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

RTOL = 1e-5  # of losses; measured on a CPU: 4e-7
CURVE = pathlib.Path(__file__).parent / "curve.py"
FSDP = {"sharding_strategy": [["(params|opt_state)/.*", "fsdp(axis='data', min_size_to_shard_mb=0)"]]}
DUAL = {"optax_name": "big_vision_dual.scale_by_dualize", "model.scaling": "dual", "lr": 1.0}


def start(environment, variants):
    return subprocess.Popen(
        [sys.executable, str(CURVE), json.dumps(variants)], env=environment, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip


def result(process):
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-3000:]
    return json.loads(next((line for line in output.splitlines() if line.startswith("{")), "{}"))


@pytest.fixture(scope="module")
def one_process(environment):
    """Curves of one process with 8 devices."""
    looped = str(pathlib.Path(environment["DATA"]).with_name("1 device.npz"))
    everything = {
        "mesh": [["replica", 2], ["data", 4]],
        "input.accum_freq": 2,
        "model.scan": True,
        "model_init": looped,
        **FSDP,
    }
    variants = {
        "1 device": ["vit", 1, {}],
        "scan, accumulation, fsdp on 2 x 4": ["vit", 0, everything],
        "mlp, 1 device": ["mlp", 1, {}],
        "mlp, 8 devices": ["mlp", 0, {}],
        "dual, 1 device": ["mlp", 1, DUAL],
        "dual, sharded": ["mlp", 0, {**DUAL, "optax": {"shard_axis": "data"}}],
    }
    return result(start({**environment, "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}, variants))


@pytest.fixture(scope="module")
def two_processes(pod):
    """Curves of 2 processes of 4 devices."""
    processes = [start(variables, {"fsdp": ["mlp", 0, FSDP]}) for variables in pod()]
    results = [result(process) for process in processes]
    return results[0]


def test_devices_do_not_change_the_curve(one_process):
    assert len(set(one_process["mlp, 1 device"])) == 4
    np.testing.assert_allclose(one_process["mlp, 8 devices"], one_process["mlp, 1 device"], rtol=RTOL)


def test_neither_do_scan_accumulation_and_fsdp(one_process):
    np.testing.assert_allclose(one_process["scan, accumulation, fsdp on 2 x 4"], one_process["1 device"], rtol=RTOL)


def test_neither_do_processes(one_process, two_processes):
    np.testing.assert_allclose(two_processes["fsdp"], one_process["mlp, 1 device"], rtol=RTOL)


def test_neither_does_sharded_dualization(one_process):
    np.testing.assert_allclose(one_process["dual, sharded"], one_process["dual, 1 device"], rtol=RTOL)
