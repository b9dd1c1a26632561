"""Results files: resumable after a torn write, free of NaN, honest about damage."""

import json
import math

import pytest

from big_vision_dual.lab.studies.grid import Trial
from big_vision_dual.lab.studies.results import Results

A, B = Trial({"lr": 0.1}, {"lr": 0.1}), Trial({"lr": 0.2}, {"lr": 0.2})


def test_what_was_added_is_found_again(tmp_path):
    Results(tmp_path / "new" / "r.jsonl").add(A, {"train_loss": 1.5})
    results = Results(tmp_path / "new" / "r.jsonl")
    assert A in results
    assert B not in results
    assert results[A]["result"] == {"train_loss": 1.5}


def test_a_half_written_line_is_cut_off_and_the_file_goes_on_as_if_nothing_had_happened(tmp_path):
    path = tmp_path / "r.jsonl"
    whole = Results(path)
    whole.add(A, {"train_loss": 1.0})
    whole.add(B, {"train_loss": 2.0})
    expected = path.read_bytes()
    path.write_bytes(expected[:-7])
    resumed = Results(path)
    assert B not in resumed
    resumed.add(B, {"train_loss": 2.0})
    assert path.read_bytes() == expected


def test_numbers_that_are_not_finite_become_null(tmp_path):
    results = Results(tmp_path / "r.jsonl")
    results.add(A, {"train_loss": math.nan, "curve": {"loss": [1.0, math.inf]}})
    assert json.loads((tmp_path / "r.jsonl").read_text())["result"] == {
        "train_loss": None, "curve": {"loss": [1.0, None]}
    }  # fmt: skip


def test_one_run_may_have_another_place_in_each_study(tmp_path):
    results = Results(tmp_path / "r.jsonl")
    results.add(A, {"train_loss": 1.0})
    elsewhere = Trial(A.config, {"switch": "residual"})
    assert results.of([elsewhere])[0]["point"] == {"switch": "residual"}


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text('{"digest": "a", "result": {}}\nhello\n')
    with pytest.raises(ValueError, match=r"line 2 of .*r\.jsonl is no finished trial .* Remove that line, or give"):
        Results(path)
