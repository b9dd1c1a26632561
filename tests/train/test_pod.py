"""A pod of 2 processes of 4 devices of which one dies: the other says so and stops, and both continue."""

from __future__ import annotations

import re
import signal
import subprocess
import sys

import pytest
from run_rows import repeatable as rows

RUN = ("--config.total_steps=20", "--config.evals.val.log_steps=20")
BOUND = 60  # seconds in which a survivor has to be gone; JAX alone takes up to 300
CONTINUES = "the same command on every host continues there"

FAILS_ALONE = """
import jax, time
from big_vision_dual.train import distributed
with distributed.joined():
    if jax.process_index() == 1:
        raise ValueError("no data on this host")
    time.sleep(100)
"""


@pytest.fixture
def impatient(pod):
    """() -> environments of a pod that misses a host after 5 seconds."""
    return lambda: [{**variables, "BVD_HEARTBEAT_SECONDS": "5"} for variables in pod()]


@pytest.fixture
def start(impatient, train_process):
    """(workdir) -> the two processes, started."""
    return lambda workdir: [train_process(workdir, *RUN, model="mlp", env=host) for host in impatient()]


def started_at(processes, step):
    """Waits until `step` is done; returns the step, 0 or that of a checkpoint, at which the run began."""
    began = 0
    for line in processes[0].stdout:
        if found := re.match("continues at step ([0-9]+) of this workdir", line):
            began = int(found[1])
        if line.startswith(f"step {step}/"):
            return began
    raise AssertionError(f"step {step} was not reached")


def finish(processes):
    for process in processes:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output[-3000:]


def test_whichever_host_is_killed_the_other_stops_and_the_same_command_continues(tmp_path, start):
    finish(start(tmp_path / "whole"))
    workdir = tmp_path / "killed"
    for victim, step, begins in [(1, 9, {0}), (0, 14, {4, 8})]:  # step 8 is saved while 9 is done: perhaps lost
        processes = start(workdir)
        assert started_at(processes, step) in begins
        processes[victim].kill()
        survivor = processes[1 - victim]
        said, _ = survivor.communicate(timeout=BOUND)
        assert survivor.returncode in (1, -signal.SIGABRT), said  # a collective broke, or JAX missed the host first
        assert "another host of this run" in said
        assert CONTINUES in said
        assert "Free some space" not in said
    processes = start(workdir)
    assert started_at(processes, 20) in {8, 12}
    finish(processes)
    assert rows(workdir) == rows(tmp_path / "whole")
    assert [row["step"] for row in rows(workdir)] == list(range(1, 21))


def test_a_host_that_fails_alone_ends_at_once_and_the_others_when_they_miss_it(impatient):
    hosts = [
        subprocess.Popen([sys.executable, "-c", FAILS_ALONE], env=variables, text=True, stderr=subprocess.PIPE)
        for variables in impatient()
    ]
    _, of_waiting = hosts[0].communicate(timeout=BOUND)
    _, of_failed = hosts[1].communicate(timeout=BOUND)
    assert hosts[1].returncode == 2
    assert "host 1 of 2: no data on this host" in of_failed
    assert hosts[0].returncode == -signal.SIGABRT
    assert of_waiting.rstrip().endswith(CONTINUES + ".")
