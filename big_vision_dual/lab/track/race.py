"""Runs a race: each entry tuned and then trained on fresh seeds, every finished run kept in the entry's own file."""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from big_vision_dual.core import files
from big_vision_dual.lab.studies.grid import Trial
from big_vision_dual.lab.studies.results import Record, Results
from big_vision_dual.lab.track import runs, space
from big_vision_dual.lab.track.entries import Entry
from big_vision_dual.lab.track.rules import Track, TrackError
from big_vision_dual.train.progress import Work

HEADER, SECONDS = "track.json", "seconds.jsonl"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """An entry at a budget. finals: records of the runs at the best position, None where not all have been run."""

    entry: str
    budget: str
    found: space.Found
    fields: Mapping[str, Any]
    finals: tuple[Record, ...] | None


class _Missing(Exception):
    """A run that is not in the results, where nothing may be run."""


class Race:
    """A track's results in a folder: OUT/ENTRY.jsonl, so that several processes can run entries of one track.

    until: the last budget that is run or shown; each is tuned from what the one before found. Raises `TrackError`
    where the folder holds results of another track, or of other rules.
    """

    def __init__(
        self,
        track: Track,
        entries: Mapping[str, Entry],
        folder: pathlib.Path,
        where: str | None = None,
        until: str | None = None,
    ):
        self.track, self.entries, self.folder = track, entries, folder
        self.budgets = track.budgets_until(until)
        self._runners = runs.Runners(track, where)
        self._results = {name: Results(folder / f"{name}.jsonl") for name in entries}
        self._claim()

    def _claim(self) -> None:
        header = self.folder / HEADER
        ours = {"track": self.track.name, "version": self.track.version, "digest": self.track.digest}
        if not header.exists():
            files.write(header, json.dumps(ours) + "\n")
        theirs = files.read_json(header)
        if theirs != ours:
            raise TrackError(f"{self.folder} holds results of {theirs}, this is {ours}; give another --out.")

    def run(self, quiet: bool = False) -> list[Outcome]:
        """Runs what is missing; what a killed race had finished stays, and the files end up the same."""
        steps = [
            budget.steps * (budget.trials * len(self.track.tuning_seeds) + len(self.track.final_seeds))
            for budget in self.budgets.values()
        ]
        with Work("steps", len(self.entries) * sum(steps), self.done, quiet) as work:
            return [outcome for name in self.entries for outcome in self._entry(name, work)]

    @property
    def done(self) -> int:
        """Steps of the finished runs."""
        finished = [record for results in self._results.values() for record in results.records]
        return sum(r["config"]["total_steps"] for r in finished if r["point"]["budget"] in self.budgets)

    def outcomes(self) -> list[Outcome]:
        """What the results hold, without running anything: entries whose tuning is not finished have none."""
        return [outcome for name in self.entries for outcome in self._entry(name, None)]

    def seconds(self) -> dict[str, float]:
        """{digest: seconds a step} of the final runs that this folder's machines made."""
        file = self.folder / SECONDS
        lines = files.read(file).splitlines() if file.exists() else []
        timed = [json.loads(line) for line in lines if line.endswith("}")]  # others: cut by a crash
        return {line["digest"]: line["seconds"] for line in timed}

    def _entry(self, name: str, work: Work | None) -> Iterator[Outcome]:
        entry, start = self.entries[name], None
        for budget, limits in self.budgets.items():
            try:
                loss = functools.partial(self.held_out, name, budget, work)
                found = space.search(entry.space, loss, limits.trials, start)
            except _Missing:
                return
            fields, start = space.fields(entry.space, found.best), found.best
            try:
                finals = tuple(self._final(name, budget, fields, seed, work) for seed in self.track.final_seeds)
            except _Missing:
                finals = None
            yield Outcome(name, budget, found, fields, finals)

    def held_out(self, name: str, budget: str, work: Work | None, position: space.Position) -> float:
        """Mean held-out loss of an entry over the tuning seeds, inf where one diverges.

        work: what is told of the runs that are missing; without it none is run.
        """
        fields = space.fields(self.entries[name].space, position)
        records = [self._tuning(name, budget, fields, seed, work) for seed in self.track.tuning_seeds]
        losses = [record["result"]["held_out_loss"] for record in records if record["result"]["finite"]]
        return statistics.fmean(losses) if len(losses) == len(records) else float("inf")

    def _tuning(self, name: str, budget: str, fields: Any, seed: int, work: Work | None) -> Record:
        trial = self._trial(name, budget, "tuning", fields, seed)
        if trial not in self._results[name]:
            if work is None:
                raise _Missing
            self._results[name].add(trial, self._runners.of(trial.config).tune(trial.config))
            self._report(trial, name, work)
        return self._results[name][trial]

    def _final(self, name: str, budget: str, fields: Any, seed: int, work: Work | None) -> Record:
        trial = self._trial(name, budget, "final", fields, seed)
        if trial not in self._results[name]:
            if work is None:
                raise _Missing
            result, seconds = self._runners.of(trial.config).final(trial.config)
            files.append(self.folder / SECONDS, json.dumps({"digest": trial.digest, "seconds": seconds}))
            self._results[name].add(trial, result)
            self._report(trial, name, work)
        return self._results[name][trial]

    def _trial(self, name: str, budget: str, stage: str, fields: Mapping[str, Any], seed: int) -> Trial:
        config = self.track.config(self.entries[name].config, fields, budget, seed)
        return Trial(config, {"entry": name, "budget": budget, "stage": stage, **fields, "seed": seed})

    def _report(self, trial: Trial, name: str, work: Work) -> None:
        """A line for a run that has ended."""
        point = " ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in trial.point.items())
        result = self._results[name][trial]["result"]
        found = (f"{what} {result[f'held_out_{what}']:.4g}" for what in ("loss", "accuracy"))
        work.say(f"{point}: held-out {', '.join(found) if result['finite'] else 'loss not finite'}")
        work.advance(trial.config["total_steps"])
