"""A race on the tiny track: killed and continued, repeated, an entry that diverges, entries that break the rules."""

import contextlib
import dataclasses
import io
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from big_vision_dual.cli import main
from big_vision_dual.lab.studies import grid
from big_vision_dual.lab.track import board, entries, race, rules

TINY = pathlib.Path(__file__).parent / "tiny.py"
TRACK = rules.load(str(TINY))
ENTRIES = ("adam", "diverges")


def racing(folder, *functions):
    return race.Race(TRACK, entries.load(TRACK, "", [f"{TINY}:{name}" for name in functions]), folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(folder, outcomes) of a race that nothing interrupted, of an entry that trains and one that diverges."""
    folder, said = tmp_path_factory.mktemp("race"), io.StringIO()
    with contextlib.redirect_stderr(said):
        outcomes = racing(folder, *ENTRIES).run()
    (folder / "said.txt").write_text(said.getvalue())
    return folder, outcomes


def test_every_run_has_a_line_with_its_result_or_that_it_has_none(whole):
    lines = [line for line in (whole[0] / "said.txt").read_text().splitlines() if line.startswith("entry=")]
    assert len(lines) == sum(len((whole[0] / f"{name}.jsonl").read_text().splitlines()) for name in ENTRIES)
    assert all(re.search(r"held-out loss \d+\.\d+, accuracy [\d.e-]+$", line) for line in lines if "=adam " in line)
    assert all(line.endswith("held-out loss not finite") for line in lines if "=diverges " in line)


def test_every_entry_gets_its_trials_and_fresh_seeds(whole):
    folder, outcomes = whole
    lines = [json.loads(line) for line in (folder / "adam.jsonl").read_text().splitlines()]
    stages = [(line["point"]["budget"], line["point"]["stage"], line["point"]["seed"]) for line in lines]
    assert stages == [*[("short", "tuning", 0)] * 3, ("short", "final", 1), ("short", "final", 2),
                      *[("long", "tuning", 0)] * 2, ("long", "final", 1), ("long", "final", 2)]  # fmt: skip
    assert all("test_loss" not in line["result"] for line in lines if line["point"]["stage"] == "tuning")
    assert [(o.entry, o.budget) for o in outcomes][:2] == [("adam", "short"), ("adam", "long")]


def test_a_narrow_terminal_cuts_no_number(whole, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["track", str(TINY), "--entry", f"{TINY}:adam", "--out", str(whole[0]), "--no-run"]) == 0
    shown = capsys.readouterr().out
    assert "\N{HORIZONTAL ELLIPSIS}" not in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert re.search(r"adam .* \d\.\d{4} \N{PLUS-MINUS SIGN} \d\.\d{4}", shown)


def test_a_race_may_stop_after_a_budget_and_go_on_later_to_the_same_file(whole, tmp_path):
    known = entries.load(TRACK, "", [f"{TINY}:adam"])
    assert [o.budget for o in race.Race(TRACK, known, tmp_path, until="short").run(quiet=True)] == ["short"]
    assert (whole[0] / "adam.jsonl").read_bytes().startswith((tmp_path / "adam.jsonl").read_bytes())
    assert [o.budget for o in race.Race(TRACK, known, whole[0], until="short").outcomes()] == ["short"]
    with pytest.raises(rules.TrackError, match=r"no budget 'shrt' \(did you mean 'short'.*: short, long"):
        race.Race(TRACK, known, tmp_path, until="shrt")


def test_a_race_killed_by_sigkill_continues_to_the_same_files(whole, tmp_path):
    given = ["track", str(TINY), "--entry", f"{TINY}:adam", "--out", str(tmp_path)]
    file, started = tmp_path / "adam.jsonl", time.monotonic()
    command = [sys.executable, "-m", "big_vision_dual", *given]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (file.exists() and file.read_bytes().count(b"\n") >= 2):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() - started < 300
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    expected = (whole[0] / "adam.jsonl").read_bytes()
    assert 0 < len(file.read_bytes()) < len(expected)
    racing(tmp_path, "adam").run(quiet=True)
    assert file.read_bytes() == expected


def test_a_repeated_race_is_free(whole, monkeypatch):
    folder, outcomes = whole
    monkeypatch.setattr(race.runs.Runner, "of", None)  # nothing may be compiled
    again = racing(folder, "adam", "diverges").run(quiet=True)
    assert again == outcomes == racing(folder, "adam", "diverges").outcomes()


def test_what_is_not_run_is_named_and_not_guessed(whole, tmp_path):
    lines = (whole[0] / "adam.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "adam.jsonl").write_text("".join(lines[:-1]))  # the last final run of 'long' is missing
    made = board.make(TRACK, racing(tmp_path, "adam").outcomes(), {})
    assert [standing.budget for standing in made.standings] == ["short"]
    assert made.unfinished == {"long": ("adam",)}


def test_an_entry_that_diverges_is_named_and_ranks_last(whole):
    made = board.make(TRACK, whole[1], {})
    first, last = made.standings[0].rows
    assert (first.entry, last.entry) == ("adam", "diverges")
    assert first.loss.n == 2
    assert last.loss.n == 0
    assert "every trial diverged" in last.marks
    assert "NaN in 2 of 2 final runs" in last.marks
    assert last.misses == 2


def test_a_best_trial_at_the_edge_is_named(whole):
    row = next(row for row in board.make(TRACK, whole[1], {}).standings[0].rows if row.entry == "adam")
    assert row.marks == ("trials ended before both sides were worse: lr",)  # three octaves, ever better


def test_the_command_writes_the_leaderboard_in_all_forms(whole, capsys):
    folder, _ = whole
    given = ["track", str(TINY), "--entry", f"{TINY}:adam", "--entry", f"{TINY}:diverges", "--out", str(folder)]
    assert main([*given, "--no-run"]) == 0
    assert "adam" in capsys.readouterr().out
    made = json.loads((folder / "leaderboard.json").read_text())
    assert [standing["budget"] for standing in made["standings"]] == ["short", "long"]
    assert made["standings"][0]["rows"][1]["results"]["test_loss"]["mean"] is None
    assert "every trial diverged" in (folder / "leaderboard.html").read_text()
    assert (folder / "leaderboard.png").stat().st_size > 5000
    assert "| adam |" in (folder / "leaderboard.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digit"], r"no track 'digit' \(did you mean 'digits'\?\); possible: "),
        (["digits", "--entries", "adamm"], r"no entry 'adamm' \(did you mean 'adamw'"),
        (["digits", "--entry", "my.py"], "possible: FILE.py:FUNCTION"),
        (["digits", "--config.lr=1"], "a track is frozen"),
        (
            ["digits", "--entry", f"{TINY}:unknown_field"],
            "entry unknown_field changes 'optaxx.b1'.*did you mean 'optax'",
        ),
        (["digits", "--entry", f"{TINY}:takes_more_steps"], "entry takes_more_steps changes 'input.batch_size'"),
    ],
)
def test_what_breaks_the_rules_is_named_before_anything_runs(arguments, message, tmp_path, capsys):
    assert main(["track", *arguments, "--out", str(tmp_path / "out")]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_results_of_other_rules_are_refused(tmp_path):
    (tmp_path / race.HEADER).write_text('{"track": "digits", "version": 1, "digest": "0"}')
    with pytest.raises(rules.TrackError, match=r"holds results of .*digits.*give another --out"):
        racing(tmp_path, "adam")


def test_the_large_track_trains_with_randaug_and_mixup_on_the_device(tmp_path):
    large = rules.load("cifar10-large")
    assert large.budgets["long"].steps == 30 * (49_000 // 512)
    small = {"model.width": 8, "model.depth": 1, "model.num_heads": 2, "model.mlp_dim": 8, "input.batch_size": 4}
    tiny = dataclasses.replace(
        large,
        base=grid.replace(large.base, small),
        budgets={"short": rules.Budget(2, 1)},
        final_seeds=(1,),
        train="train[:50%]",
        held_out="train[50%:]",
        points=1,
    )
    images = {f"{split}_image": np.full((20, 32, 32, 3), 99, np.uint8) for split in ("train", "test")}
    labels = {f"{split}_label": np.arange(20) % 10 for split in ("train", "test")}
    np.savez(tmp_path / "x.npz", allow_pickle=False, **images, **labels)
    racing = race.Race(tiny, entries.load(tiny, "dualized", []), tmp_path / "out", str(tmp_path / "x.npz"))
    (outcome,) = racing.run(quiet=True)
    assert outcome.finals is not None
    assert np.isfinite(outcome.finals[0]["result"]["test_loss"])
