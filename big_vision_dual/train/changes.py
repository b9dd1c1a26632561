"""How a config differs from the one that a workdir was trained with, and whether the run can go on all the same."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from big_vision_dual.core import files
from big_vision_dual.train import run_files, schema

ASKED = "resume_changed"
_FREE = (
    r"wandb(\..*)?|tensorboard|profile(\..*)?|evals(\..*)?|log_.*|(keep_)?ckpt_(steps|epochs|examples|percent)|"
    r"resume|resume_step|resume_changed|model_init|model_load(\..*)?|compile_(cache|effort)|"
    r"mesh(\..*)?|sharding_strategy(\..*)?|sharding_rules(\..*)?|optax\.shard_axis|"
    r"input\.(prefetch.*|cache.*|num_workers|skip_bad_records|data\.data_dir)"
)
"""Fields that change nothing of what is computed from the checkpoint on, but for the rounding of sums."""
_LENGTH = r"total_(steps|epochs|examples)"
_TO_THE_END = r'"(cosine|linear|polynomial)"|cooldown_|_percent"'
"""In a schedule's JSON: what makes it depend on the length of the training."""
_ABSENT = "absent"


class ConfigChanged(ValueError):
    """The config is not the one that the workdir's run was trained with."""


@dataclass(frozen=True)
class Change:
    """A field, and its text in JSON before and after; 'absent' where it is not there."""

    field: str
    before: str
    after: str

    @property
    def free(self) -> bool:
        return re.fullmatch(_FREE, self.field) is not None

    def __str__(self) -> str:
        return f"config.{self.field}: {self.before} -> {self.after}"


def between(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Change, ...]:
    """The fields in which two configs differ, in the order of their names. A field that is absent has its
    default, of `fields`, so that a recipe that names more fields than before changes nothing by that.
    """
    old, new = dict(_flat(before)), dict(_flat(after))
    for one, other in ((old, new), (new, old)):
        one |= {name: text for name in other.keys() - one.keys() if (text := _default(name)) is not None}
    return tuple(
        Change(field, old.get(field, _ABSENT), new.get(field, _ABSENT))
        for field in sorted(old.keys() | new.keys())
        if old.get(field) != new.get(field)
    )


def _default(name: str) -> str | None:
    """The default of a field in JSON; None where there is none, or it is None, which is as good as absent."""
    field = schema.field_of(name)
    return None if field is None or field.needed or field.default is None else json.dumps(field.default)


def plain(config: Any) -> dict[str, Any]:
    """A ConfigDict as config.json has it: tuples as lists, objects as their text."""
    return json.loads(json.dumps(config.to_dict(), default=_text))


def _text(value: Any) -> str:
    """A function as its name and a digest of its bytecode, which another Python may change; else the object's text."""
    code = getattr(value, "__code__", None)
    if code is None:
        return str(value)
    constants = [constant for constant in code.co_consts if not hasattr(constant, "co_code")]
    digest = hashlib.sha256(code.co_code + repr((code.co_names, constants)).encode()).hexdigest()
    return f"{value.__module__}.{value.__qualname__} {digest[:12]}"


def against(folder: run_files.Folder, config: Any) -> tuple[Change, ...]:
    """The changes against config.json of a workdir; none, with a warning, where that cannot be read."""
    try:
        return between(run_files.config(folder), plain(config))
    except FileNotFoundError:
        return ()
    except files.FileError as error:
        logging.warning("%s The config is taken to be the same as before.", error)
        return ()


def check(folder: run_files.Folder, config: Any, step: int | None) -> tuple[Change, ...]:
    """The changes against config.json of a workdir, each logged, whose run is to be continued at its checkpoint `step`.

    Raises ConfigChanged where one of them alters what is computed and `config.resume_changed` is not set. Without a
    checkpoint, None, nothing is continued and any config may begin anew.
    """
    changes = against(folder, config)
    if step is None:
        return tuple(change for change in changes if not change.free)
    if not (files.path_of(folder) / run_files.CONFIG).exists():
        logging.warning("%s has no %s: the config is taken to be the same as before.", folder, run_files.CONFIG)
    longer = re.search(_TO_THE_END, json.dumps(plain(config).get("schedule"))) is None  # only more of the same
    wrong = [change for change in changes if not (change.free or (longer and re.fullmatch(_LENGTH, change.field)))]
    if wrong and not config.get(ASKED):
        raise ConfigChanged(
            f"the run in {folder} was trained with another config:\n  " + "\n  ".join(map(str, wrong)) + "\n"
            "From its checkpoint it cannot go on as either of them would have. Give the old values, or another workdir "
            f"(with --config.resume={folder} to start from its checkpoint), or --config.{ASKED}=True to go on all the "
            "same."
        )
    for change in changes:
        logging.warning("goes on with another config than before: %s", change)
    return changes


def check_data(before: Collection[int], now: int, config: Any) -> None:
    """Raises ConfigChanged where the data set has another number of examples than any that the run was trained with,
    `before`, and `config.resume_changed` is not set: their order is another one from here on."""
    if before and now not in before and not config.get(ASKED):
        raise ConfigChanged(
            f"the training data has {now:,} examples, and had {' and '.join(f'{size:,}' for size in before)} until the "
            "checkpoint: from there the run cannot go on as it would have. Give the old data, or "
            f"--config.{ASKED}=True to go on all the same."
        )


def keep(folder: run_files.Folder, step: int) -> None:
    """Keeps config.json, which is about to be written anew, as the one that trained until `step`: beside those kept
    before."""
    place = files.path_of(folder)
    content = files.read_bytes(place / run_files.CONFIG)
    for number in itertools.count(1):
        path = place / f"config.until-step-{step}{f'-{number}' if number > 1 else ''}.json"
        if not path.exists():
            files.write(path, content)
            return
        if files.read_bytes(path) == content:
            return


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and (value or not path):
        for name, inner in value.items():
            yield from _flat(inner, f"{path}.{name}" if path else str(name))
    elif value is not None and value != {}:
        yield path, json.dumps(value)
