"""What a launch is asked to do, and the ways in which it can end."""

from __future__ import annotations

import enum
import pathlib
import re
from dataclasses import dataclass

from big_vision_dual.pods import topologies


class LaunchError(RuntimeError):
    """The launch cannot go on; the message says what is left running and what to do."""


class Outcome(enum.Enum):
    FINISHED = "finished"
    ALREADY_FINISHED = "already finished"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class LaunchSpec:
    """What to run and where. `source` is a clone of this project; its HEAD commit is what runs.

    `max_wait_s` bounds the time in the queue, `max_preemptions` the re-creations, `max_drops` the ssh failures in a
    row. `keep` leaves the slice at the end.
    """

    tpu: str
    zone: str
    name: str
    config: str
    workdir: str = ""
    overrides: tuple[str, ...] = ()
    project: str | None = None
    spot: bool = False
    keep: bool = False
    source: pathlib.Path = pathlib.Path(".")
    max_wait_s: float = 24 * 3600
    max_preemptions: int = 100
    max_drops: int = 8

    def __post_init__(self) -> None:
        topologies.parse(self.tpu)
        if not re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", self.name):
            raise LaunchError(f"--name {self.name}: possible are lower-case letters, digits and '-', a letter first.")
        if self.workdir and not self.workdir.startswith("gs://"):
            raise LaunchError(
                f"--workdir {self.workdir}: the disks of a slice go with it, and its hosts share none. "
                "Possible: a folder in a bucket, gs://BUCKET/FOLDER, in the slice's region."
            )
