"""What a person sees of a run or a study: a bar with the time to go on a terminal, plain lines anywhere else."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

import jax
from rich import console, progress

_SHOWN = ("training_loss", "img/sec", "mfu")
_LINE_SECONDS = 20.0  # at least between two lines of `Work` in a file


class Screen:
    """A text stream that nothing depends on: once it cannot be written to, what is written is dropped.

    The reader of a pipe may end, a terminal close, the disk of a log be full. At the first, rich would end the process.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _try(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except OSError:  # what is still in its buffer would fail once more when the process ends
            with contextlib.suppress(OSError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)


class Eta:
    """The time to go, from the pace since the first time that anything was done: that includes no compilation."""

    def __init__(self, total: float):
        self._total = total
        self._first: tuple[float, float] | None = None

    def text(self, done: float) -> str:
        """'ETA 1:02:03' after `done` of the total; without a pace, no time."""
        if self._first is None:
            self._first = done, time.monotonic()
        begun, since = self._first
        if done <= begun:
            return "ETA -"
        left = max(0.0, self._total - done)  # a sum of parts may exceed the whole by its rounding
        return f"ETA {clock((time.monotonic() - since) / (done - begun) * left)}"


def clock(seconds: float) -> str:
    """'1:02:03'."""
    return f"{int(seconds // 3600)}:{int(seconds // 60 % 60):02}:{int(seconds % 60):02}"


def duration(seconds: float) -> str:
    """Time as a person would say it: '3.2 ms', '41 s', '1:02:03'."""
    if seconds < 1:
        return f"{1000 * seconds:.2g} ms"
    return f"{seconds:.3g} s" if seconds < 100 else clock(seconds)


class Work:
    """Context: how much of a countable work is done, on stderr; lines where that is no terminal.

    what: what is counted, such as 'trials'. done: what was done before.
    """

    def __init__(self, what: str, total: float, done: float = 0.0, quiet: bool = False):
        self._what, self._total, self._done, self._eta = what, total, done, Eta(total)
        self._console = _console(sys.stderr, quiet)
        self._lines = not self._console.is_terminal
        self._said = float("-inf")
        columns = [progress.TextColumn("{task.description}"), progress.BarColumn(), progress.TimeElapsedColumn(),
                   progress.TextColumn("{task.fields[eta]}")]  # fmt: skip
        self._bar = progress.Progress(*columns, console=self._console, disable=quiet or self._lines)
        self._task = self._bar.add_task(self._text(), total=total, eta="ETA -")
        self._bar.update(self._task, completed=done)

    def __enter__(self) -> Work:
        self._bar.start()
        self._eta.text(self._done)
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def advance(self, amount: float = 1.0) -> None:
        """So much more is done."""
        self._done += amount
        eta = self._eta.text(self._done)
        self._bar.update(self._task, completed=self._done, description=self._text(), eta=eta)
        now = time.monotonic()
        if self._lines and (now - self._said > _LINE_SECONDS or round(self._done, 6) >= self._total):
            self._said = now
            self.say(f"{self._text()}  {eta}")

    def say(self, text: str) -> None:
        """A line of its own, above the bar."""
        self._console.print(text, markup=False)

    def _text(self) -> str:
        return f"{round(self._done, 1):,.9g}/{self._total:,.9g} {self._what}"


class Progress:
    """Context that shows how far a run is. Only process 0 shows anything.

    plain_lines: whether a line is printed for every row of metrics where there is no terminal.
    """

    def __init__(self, first_step: int, total_steps: int, plain_lines: bool = True):
        self._total, self._eta = total_steps, Eta(total_steps)
        self._console = _console(sys.stdout, quiet=jax.process_index() != 0)
        self._plain_lines = plain_lines and not self._console.is_terminal
        self._bar = progress.Progress(
            progress.TextColumn("step {task.completed:,.0f}/{task.total:,.0f}"),
            progress.BarColumn(bar_width=10),
            progress.TextColumn("{task.fields[eta]}  {task.fields[metrics]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("training", total=total_steps, completed=first_step, metrics="", eta="ETA -")

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def advance(self, step: int) -> None:
        self._bar.update(self._task, completed=step, eta=self._eta.text(step))

    def row(self, row: Mapping[str, Any]) -> None:
        """Shows the loss, speed and evaluations of a row of metrics."""
        text = "  ".join(f"{name} {value:.4g}" for name, value in row.items() if name in _SHOWN or _is_eval(name))
        self._bar.update(self._task, metrics=text)
        if self._plain_lines:
            self._console.print(f"step {row['step']:,}/{self._total:,}  {text}  {self._eta.text(row['step'])}")

    def say(self, text: str) -> None:
        """A line of its own, above the bar."""
        self._console.print(text, markup=False)


def _console(stream: TextIO, quiet: bool) -> console.Console:
    screen: Any = Screen(stream)
    return console.Console(file=screen, quiet=quiet, highlight=False, soft_wrap=True)


def _is_eval(name: str) -> bool:
    return name.endswith(("acc@1", "prec@1"))
