"""What a launch is asked to do, and the ways in which it can end."""

from __future__ import annotations

import enum
import pathlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from big_vision_dual.pods import topologies
from big_vision_dual.train import recipes

_WITH_THE_PACKAGE = ("mnist5k",)  # data that comes with what is installed


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
    row. `keep` leaves the slice at the end. `xla_flags` are groups of the flags that the workers' compiler is given.
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
    xla_flags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        topologies.parse(self.tpu)
        if not re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", self.name):
            raise LaunchError(f"--name {self.name}: possible are lower-case letters, digits and '-', a letter first.")
        if self.workdir and not self.workdir.startswith("gs://"):
            raise LaunchError(
                f"--workdir {self.workdir}: the disks of a slice go with it, and its hosts share none. "
                "Possible: a folder in a bucket, gs://BUCKET/FOLDER, in the slice's region."
            )


def check_recipe(spec: LaunchSpec) -> None:
    """Loads the recipe with its overrides here, before a slice is paid for.

    Raises LaunchError for data that the workers could not read, and what `recipes.load` raises.
    """
    config = recipes.load(spec.config, spec.overrides)
    for field, data in sorted(_data_settings(config.to_dict(), "config"), key=lambda one: "evals" in one[0]):
        name, data_dir = str(data["name"]), str(data.get("data_dir") or "")
        local = [name.removeprefix("array:")] if name.startswith("array:/") else _local_files(data)
        if local:
            raise LaunchError(f"{field} reads {', '.join(local)}, which the workers do not have.")
        if _of_tfds(name, str(data.get("path") or "")) and not data_dir.startswith("gs://"):
            raise LaunchError(
                f"{field} is {name!r} of TFDS, without a data_dir that the workers can read (given: "
                f"{data_dir or 'none'}). Prepare it once in a bucket, `tfds build NAME --data_dir gs://BUCKET/tfds`, "
                f"and give --{field}.data_dir=gs://BUCKET/tfds."
            )


def _of_tfds(name: str, path: str) -> bool:
    elsewhere = path or name.startswith(("array:", "bv:")) or name in _WITH_THE_PACKAGE
    return path.startswith("tfds:") or not elsewhere


def _local_files(data: Mapping[str, Any]) -> list[str]:
    """The file of lines of JSON and the folders of what they name, where they are in no bucket."""
    folders = data.get("fopen_keys") or {}
    named = [data.get("fname"), *(folders.values() if isinstance(folders, Mapping) else ())]
    return [name for name in named if name and not name.startswith("gs://")]


def _data_settings(config: Mapping[str, Any], path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(field, dict(name=, ...)) of every data set that a config reads."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            if key == "data" and "name" in value:
                yield f"{path}.{key}", value
            else:
                yield from _data_settings(value, f"{path}.{key}")
