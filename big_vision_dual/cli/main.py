"""Parses `bvd COMMAND ...`; each command's module is imported only when it is called."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from big_vision_dual.core import errors

COMMANDS = {
    "bisect": "from the standard ViT with AdamW to the dualized one, switch by switch",
    "coord-check": "whether the change of activations depends on width or depth",
    "demo": "train AdamW and the dualized ViT side by side on MNIST digits",
    "eval": "evaluate what a run left, or a weights file, with a recipe's evaluators",
    "launch": "run a recipe on a TPU slice: create, install, start, follow, resume, delete; prints unless --execute",
    "lr-sweep": "whether the best learning rate depends on width or depth",
    "norms": "build, show, diff, check and audit target_norm tables",
    "preflight": "compile a recipe's step for TPU slices that you do not have: memory, time, collectives",
    "report": "runs as one self-contained HTML page",
    "sample": "text from a run of a byte-level language model",
    "train": "train a recipe; the same as python -m big_vision_dual.train",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0 done, 1 a finding or failure, 2 wrong input."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="bvd", description="Modular duality for training vision models.")
    choices = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, summary in COMMANDS.items():
        command = choices.add_parser(name, help=summary, description=summary.capitalize() + ".")
        if argv[:1] == [name]:
            _module(name).add_arguments(command)
    args, overrides = parser.parse_known_args(argv)
    wrong = [word for word in overrides if not word.startswith("--config.")]
    if wrong:
        parser.error(f"unrecognized arguments: {' '.join(wrong)}. See bvd {args.command} --help.")
    args.overrides = overrides
    return errors.guarded(f"bvd {args.command}", lambda: _module(args.command).run(args))


def _module(name: str):
    return importlib.import_module(f"big_vision_dual.cli.{name.replace('-', '_')}")
