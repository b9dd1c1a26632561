"""Times to go, on a clock of the test's own."""

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
