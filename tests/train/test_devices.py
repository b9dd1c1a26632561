"""One loss curve, however many devices and processes compute it, blocks looped or scanned."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import devices
import numpy as np
import pytest

RTOL = 1e-5  # of losses; measured on a CPU: 4e-7
CURVE = pathlib.Path(__file__).parent / "curve.py"
SHARDED_DUAL = {
    "optax_name": "big_vision_dual.scale_by_dualize",
    "model.scaling": "dual",
    "lr": 1.0,
    "optax": {"shard_axis": "data"},
}


def start(environment, variants):
    return subprocess.Popen(
        [sys.executable, str(CURVE), json.dumps(variants)], env=environment, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip


def result(process):
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors[-3000:]
    return json.loads(next((line for line in output.splitlines() if line.startswith("{")), "{}"))


@pytest.fixture(scope="module")
def variants(environment):
    """{name: changes of the tiny config that leave its curve alone}."""
    looped = str(pathlib.Path(environment["DATA"]).with_name("1 device.npz"))
    accumulation = {"input.accum_freq": 2}
    scan = {"model.scan": True, "model_init": looped}  # drawn per layer, a looped model has other weights
    fsdp = {"sharding_strategy": [["(params|opt_state)/.*", "fsdp(axis='data', min_size_to_shard_mb=0)"]]}
    mesh = {"mesh": [["replica", 2], ["data", 4]]}
    return {
        "none": {},
        "scan": scan,
        "accumulation": accumulation,
        "fsdp": fsdp,
        "scan, accumulation, fsdp, 2 mesh axes": {**scan, **accumulation, **fsdp, **mesh},
    }


ONE_PROCESS = ("none", "scan, accumulation, fsdp, 2 mesh axes")
TWO_PROCESSES = ("scan", "accumulation", "fsdp", "scan, accumulation, fsdp, 2 mesh axes")


@pytest.fixture(scope="module")
def one_process(environment, variants):
    """Curves of one process with 8 devices."""
    curves = {
        "1 device": ["vit", 1, {}],
        **{name: ["vit", 0, variants[name]] for name in ONE_PROCESS},
        "dual, 1 device": ["mlp", 1, SHARDED_DUAL],
        "dual": ["mlp", 0, SHARDED_DUAL],
    }
    return result(start({**environment, "XLA_FLAGS": devices.flags(8)}, curves))


@pytest.fixture(scope="module")
def two_processes(pod, variants, one_process):
    """Curves of 2 processes of 4 devices."""
    del one_process  # leaves the weights that `scan` starts from
    curves = {**{name: ["vit", 0, variants[name]] for name in TWO_PROCESSES}, "dual": ["mlp", 0, SHARDED_DUAL]}
    results = [result(process) for process in [start(host, curves) for host in pod()]]
    return results[0]


@pytest.mark.parametrize("variant", ONE_PROCESS)
def test_devices_do_not_change_the_curve(one_process, variant):
    assert len(set(one_process["1 device"])) == 4
    np.testing.assert_allclose(one_process[variant], one_process["1 device"], rtol=RTOL)


@pytest.mark.parametrize("variant", TWO_PROCESSES)
def test_neither_do_processes(one_process, two_processes, variant):
    np.testing.assert_allclose(two_processes[variant], one_process["1 device"], rtol=RTOL)


def test_neither_does_sharded_dualization(one_process, two_processes):
    assert len(set(one_process["dual, 1 device"])) == 4
    np.testing.assert_allclose(one_process["dual"], one_process["dual, 1 device"], rtol=RTOL)
    np.testing.assert_allclose(two_processes["dual"], one_process["dual, 1 device"], rtol=RTOL)
