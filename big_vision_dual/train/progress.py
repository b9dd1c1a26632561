"""What a person sees of a run: a progress bar with ETA on a terminal, plain lines anywhere else."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import jax
from rich import console, progress

_SHOWN = ("training_loss", "img/sec", "mfu")


class Progress:
    """Context that shows how far a run is. Only process 0 shows anything.

    plain_lines: whether a line is printed for every row of metrics where there is no terminal.
    """

    def __init__(self, first_step: int, total_steps: int, plain_lines: bool = True):
        self._first, self._total = first_step, total_steps
        self._console = console.Console(quiet=jax.process_index() != 0, soft_wrap=True, highlight=False)
        self._plain_lines = plain_lines and not self._console.is_terminal
        self._started: float | None = None
        self._bar = progress.Progress(
            progress.TextColumn("step {task.completed:,.0f}/{task.total:,.0f}"),
            progress.BarColumn(),
            progress.TextColumn("{task.fields[metrics]}"),
            progress.TimeElapsedColumn(),
            progress.TextColumn("ETA"),
            progress.TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("training", total=total_steps, completed=first_step, metrics="")

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def advance(self, step: int) -> None:
        if self._started is None:  # the first step of the process is done: what follows is steady
            self._first, self._started = step, time.monotonic()
        self._bar.update(self._task, completed=step)

    def row(self, row: Mapping[str, Any]) -> None:
        """Shows the loss, speed and evaluations of a row of metrics."""
        text = "  ".join(f"{name} {value:.4g}" for name, value in row.items() if name in _SHOWN or _is_eval(name))
        self._bar.update(self._task, metrics=text)
        if self._plain_lines:
            self._console.print(f"step {row['step']:,}/{self._total:,}  {text}  ETA {self._eta(row['step'])}")

    def say(self, text: str) -> None:
        """A line of its own, above the bar."""
        self._console.print(text, markup=False)

    def _eta(self, step: int) -> str:
        done = step - self._first
        if not done or self._started is None:
            return "unknown"
        seconds = (time.monotonic() - self._started) / done * (self._total - step)
        return f"{int(seconds // 3600)}:{int(seconds // 60 % 60):02}:{int(seconds % 60):02}"


def _is_eval(name: str) -> bool:
    return name.endswith(("acc@1", "prec@1"))
