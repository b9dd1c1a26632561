"""Parses `bvd COMMAND ...`; each command's module is imported only when it is called."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from types import ModuleType

from big_vision_dual import __version__
from big_vision_dual.core import errors
from big_vision_dual.train import command, quiet

COMMANDS = {
    "bisect": "from the standard ViT with AdamW to the dualized one, switch by switch",
    "completion": "the shell script that completes this command's words",
    "coord-check": "whether the change of activations depends on width or depth",
    "demo": "train AdamW and the dualized ViT side by side on MNIST digits",
    "eval": "evaluate what a run left, or a weights file, with a recipe's evaluators",
    "launch": "run a recipe on a TPU slice: create, install, start, follow, resume, delete; prints unless --execute",
    "list": "the recipes, tables, tracks, optimizers and config fields that there are",
    "lr-sweep": "whether the best learning rate depends on width or depth",
    "norms": "build, show, diff, check and audit target_norm tables",
    "preflight": "compile a recipe's step for TPU slices that you do not have: memory, time, collectives",
    "report": "runs as one self-contained HTML page",
    "sample": "text from a run of a byte-level language model",
    "track": "race optimizers on equal terms: tuned alike, fresh seeds, a leaderboard",
    "train": "train a recipe; the same as python -m big_vision_dual.train",
}
_ALL = """Modular duality for training vision models.

Config fields are changed by --config.KEY=VALUE in every command that takes --config (docs/config.md)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0 done, 1 a finding or failure, 2 wrong input."""
    argv = list(sys.argv[1:] if argv is None else argv)
    return errors.guarded(" ".join(["bvd", *argv[:1]]), lambda: _run(argv))


def _run(argv: list[str]) -> int:
    name = argv[0] if argv else ""
    parser, commands = parsers([name] if name in COMMANDS else [])
    if name and name not in COMMANDS and not name.startswith("-"):
        parser.error(f"no command {name!r}{errors.did_you_mean(name, COMMANDS)}; possible: {', '.join(COMMANDS)}.")
    args = parser.parse(argv, commands.get(name))
    quiet.no_tpu()
    with quiet.libraries():
        return module(name).run(args)


def parsers(filled: Sequence[str]) -> tuple[command.Parser, dict[str, argparse.ArgumentParser]]:
    """(the parser of bvd, {command: its parser}); only the arguments of the commands `filled` are added."""
    parser = command.Parser(prog="bvd", description=_ALL)
    parser.add_argument("--version", action="version", version=f"big_vision_dual {__version__}")
    choices = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, summary in COMMANDS.items():
        one = choices.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        if name in filled:
            module(name).add_arguments(one)
            one.epilog = command.examples(f"bvd {name}", module(name).EXAMPLES)
    return parser, dict(choices.choices)


def module(name: str) -> ModuleType:
    """The module of a command, with EXAMPLES, add_arguments and run."""
    return importlib.import_module(f"big_vision_dual.cli.{name.replace('-', '_')}")
