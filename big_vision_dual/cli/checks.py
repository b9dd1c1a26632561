"""Types of arguments: a value that cannot be used ends a command before it begins, with what is possible."""

from __future__ import annotations

import argparse
import os
import pathlib
import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from big_vision_dual.core.errors import did_you_mean
from big_vision_dual.train import recipes
from big_vision_dual.train.fields import Interval


def whole(low: int) -> Callable[[str], int]:
    """A whole number from `low` on."""

    def read(text: str) -> int:
        if not re.fullmatch(r"-?\d+", text) or int(text) < low:
            raise argparse.ArgumentTypeError(f"{text!r}; possible: a whole number from {low} on.")
        return int(text)

    return read


def number(interval: str) -> Callable[[str], float]:
    """A number in an interval, '(0, inf)'."""
    allowed = Interval(interval)

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not allowed.allows(value):
            raise argparse.ArgumentTypeError(f"{text!r}; possible: a number {allowed}.")
        return value

    return read


def numbers(interval: str) -> Callable[[str], list[float]]:
    """Numbers with commas between them."""
    read = number(interval)
    return lambda text: [read(part) for part in text.split(",")]


def ascending(text: str) -> list[int]:
    """Widths or depths with commas between them, at least two, ascending."""
    read = whole(1)
    found = [read(part) for part in text.split(",")]
    if len(found) < 2 or found != sorted(set(found)):
        raise argparse.ArgumentTypeError(f"{text!r}; possible: two sizes or more, ascending, such as 32,64,128.")
    return found


def names(possible: Collection[str], what: str) -> Callable[[str], list[str]]:
    """Names with commas between them, each of them possible."""

    def read(text: str) -> list[str]:
        found = text.split(",")
        for name in found:
            if name not in possible:
                near = did_you_mean(name, possible)
                raise argparse.ArgumentTypeError(f"no {what} {name!r}{near}; possible: {', '.join(possible)}.")
        return found

    return read


def regexes(text: str) -> list[str]:
    """Regular expressions with commas between them."""
    for pattern in text.split(","):
        try:
            re.compile(pattern)
        except re.error as error:
            raise argparse.ArgumentTypeError(f"{pattern!r} is no regular expression: {error}.") from None
    return text.split(",")


def add_study(parser: argparse.ArgumentParser, *, sizes: str, out: str) -> None:
    """What all studies over sizes are told. sizes, out: defaults."""
    from big_vision_dual.lab.studies.settings import SETTINGS

    add_subject(parser, default="study_vit")
    parser.add_argument(
        "--settings",
        type=names(SETTINGS, "setting"),
        help=f"some of {', '.join(SETTINGS)}; default adamw, mup where the model has its rules, dualize, and "
        "dualize_measured where it has no norm tree",
    )
    parser.add_argument(
        "--axis", default="width", metavar="AXIS", help="what grows: width, depth, or a field of config.model"
    )
    parser.add_argument("--sizes", type=ascending, default=sizes, help="widths or depths, ascending")
    parser.add_argument("--seeds", type=whole(1), default=3, help="trainings of each kind")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(out), help="folder of results")


def add_subject(parser: argparse.ArgumentParser, *, default: str | None = None) -> None:
    """Which model and data a study is of: a recipe's, or the user's own; read by `subject`."""
    parser.add_argument("--config", default=default, help="a recipe; --config.lr=0.1 and the like change it")
    parser.add_argument("--model", help="instead a model of your own, package.module:Name (docs/your_model.md)")
    parser.add_argument("--data", help="with --model: an NPZ file of train_image, train_label, test_image, test_label")


def subject(args: argparse.Namespace) -> Any:
    """The config that `add_subject`'s arguments name; another's model is traced once. Raises `ValueError`."""
    if (args.model is None) != (args.data is None):
        raise ValueError("--model and --data belong together: the model's name, and the file of what it sees.")
    if args.model is None:
        if args.config is None:
            raise ValueError("nothing to study: give --config RECIPE, or --model PACKAGE:NAME and --data FILE.npz.")
        return recipes.load(args.config, args.overrides)
    sys.path.insert(0, os.getcwd())  # as `python -m` has it: one's own package need not be installed
    return recipes.load(f"own_model:{args.model},{args.data}", args.overrides)


def buildable(configs: Iterable[Mapping[str, Any]]) -> None:
    """Raises what a model raises for sizes or data that it cannot have, for each different model of a study."""
    from big_vision_dual import models
    from big_vision_dual.models import init, strangers

    seen = []
    for config in configs:
        model = (config["model_name"], config["num_classes"], config["model"])
        if model not in seen:
            seen.append(model)
            made = models.of(config)
            if model[0] not in models.MODELS:
                strangers.check(made, model[0], config["input_shape"], init.input_dtype(config), model[1])
