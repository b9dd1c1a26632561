"""Times to go, on a clock of the test's own; and what is shown to nobody."""

import subprocess
import sys

import pytest

from big_vision_dual.train import progress


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    times = iter([0.0, 10.0, 20.0, 30.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(times))


def test_the_time_to_go_is_that_of_the_pace_since_the_first_work():
    eta = progress.Eta(100)
    assert [eta.text(done) for done in (20, 20, 40, 70)] == ["ETA -", "ETA -", "ETA 0:00:30", "ETA 0:00:12"]


def test_parts_that_exceed_the_whole_by_rounding_leave_nothing():
    eta = progress.Eta(1.0)
    eta.text(0.0)
    assert eta.text(sum([0.1] * 10) + 1e-12) == "ETA 0:00:00"


SHOWS = """
from big_vision_dual.train import progress
with progress.Progress(0, 9) as shown:
    for step in range(9):
        shown.say("text")
        shown.row({"step": step, "training_loss": 1.0})
print("the end", file=progress.Screen(sys.stdout), flush=True)
print("at the end", file=sys.stderr)
"""


@pytest.mark.parametrize("place", ["a full disk", "a pipe that nobody reads"])
def test_a_run_does_not_end_with_its_screen(place):
    closes = "read, write = os.pipe(); os.close(read); os.dup2(write, 1)" if "pipe" in place else ""
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-c", f"import os, sys; {closes}\n{SHOWS}"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert (ended.returncode, ended.stderr) == (0, "at the end\n")
