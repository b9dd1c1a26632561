"""Sharded dualization on 8 CPU devices, in a process of its own: the number of devices is fixed at start."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import devices
import jax
import pytest

from big_vision_dual.core.dualize.placement import Placement, sharded_axis


@pytest.fixture(scope="module")
def report():
    script = pathlib.Path(__file__).with_name("sharded_update.py")
    done = subprocess.run(
        [sys.executable, script], env=devices.environment(8), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_sharded_update_is_the_replicated_one(report):
    assert report["difference"] < 1e-6  # updates of size 0.1; float32 summation order, seen 0


def test_momentum_of_matrices_is_spread_over_the_devices(report):
    assert report["momentum_bytes_per_device"] * 8 == report["momentum_bytes"]


def test_momentum_of_vectors_is_not():
    shapes = ((48, 384, 1536), (3, 12, 24), (16, 3, 5), (1, 1, 384))
    assert [sharded_axis(shape, 8) for shape in shapes] == [1, 2, 0, None]


def test_no_collective_inside_the_iterations(report):
    assert report["collectives"] == report["collectives_of_5_steps"]
    assert report["collectives"]["all-gather"] > 0
    assert report["inside_loops"] == {}


def test_axis_that_is_not_in_the_mesh():
    with pytest.raises(ValueError, match=r"shard_axis is 'data'; the mesh has axes \[\]. Pass mesh="):
        Placement("data").momentum(jax.numpy.zeros((2, 3, 4)))
