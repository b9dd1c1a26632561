"""A pod of 2 processes of 4 devices of which one dies: the other says so and stops, and both continue."""

from __future__ import annotations

import signal

import pytest

from big_vision_dual.trainer import checkpoint, metrics

RUN = ("--config.total_steps=40", "--config.evals.val.log_steps=20")
BOUND = 60  # seconds in which a survivor has to be gone; JAX alone takes up to 300
HEARTBEAT = "5"


@pytest.fixture
def start(pod, train_process):
    """(workdir) -> the two processes, started."""

    def both(workdir):
        hosts = [{**variables, "BVD_HEARTBEAT_SECONDS": HEARTBEAT} for variables in pod()]
        return [train_process(workdir, *RUN, model="mlp", env=host) for host in hosts]

    return both


def finish(processes):
    for process in processes:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output[-3000:]


def stop_one(processes, victim, how, step):
    """Sends a signal to one process once `step` is done; returns what the other says, and its exit status."""
    watched, survivor = processes[0].stdout, processes[1 - victim]
    reached = next(line for line in watched if line.startswith("step ") and int(line[5:].split("/")[0]) >= step)
    processes[victim].send_signal(how)
    output, _ = survivor.communicate(timeout=BOUND)
    processes[victim].kill()
    processes[victim].wait()
    return reached + output, survivor.returncode


def rows(workdir):
    return [
        {name: value for name, value in row.items() if name not in metrics.TIMING}
        for row in metrics.read(workdir / metrics.FILE)
    ]


def test_whichever_host_dies_the_other_stops_and_the_same_command_continues(tmp_path, start):
    finish(start(tmp_path / "whole"))
    workdir, steps = tmp_path / "stopped", []
    for victim, how, step in [(1, signal.SIGKILL, 6), (0, signal.SIGKILL, 14), (1, signal.SIGSTOP, 22)]:
        said, status = stop_one(start(workdir), victim, how, step)
        assert status in (1, -signal.SIGABRT), said
        assert "another host of this run" in said
        assert "the same command on every host continues there" in said
        assert "Free some space" not in said
        with checkpoint.Checkpoints(workdir / checkpoint.FOLDER, read_only=True) as left:
            steps.append(left.latest)
    finish(start(workdir))
    assert rows(workdir) == rows(tmp_path / "whole")
    assert [row["step"] for row in rows(workdir)] == list(range(1, 41))
    assert steps == sorted(steps)
    assert 4 <= steps[0] < steps[2] < 40
