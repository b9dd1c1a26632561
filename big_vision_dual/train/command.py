"""Big Vision's entry point: python -m big_vision_dual.train --config F.py:arg --workdir W [--config.key=v ...].

Exit codes: 0 done; 75 stopped by SIGTERM or SIGINT with everything saved, the same command continues;
2 a mistake in the input; 1 failed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from big_vision_dual.core import errors
from big_vision_dual.train import distributed, quiet, recipes
from big_vision_dual.train.loop import fit


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains; `arguments` as on the command line. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m big_vision_dual.train", epilog=__doc__, allow_abbrev=False)
    add_arguments(parser)
    known, overrides = parser.parse_known_args(_joined(sys.argv[1:] if arguments is None else arguments))
    return errors.guarded(parser.prog, lambda: run(known, overrides))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What a run is told beside its --config.KEY=VALUE overrides."""
    parser.add_argument("--config", required=True, help="a config file or its name, with an optional :arg")
    parser.add_argument("--workdir", required=True, help="folder for metrics and checkpoints, local or gs://")
    parser.add_argument("--distributed", choices=distributed.MODES, default="auto", help="join a pod's other hosts")


def run(known: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Trains with parsed arguments; 0 when done."""
    with quiet.libraries(), distributed.joined(known.distributed):
        fit(recipes.load(known.config, overrides), known.workdir)
    return 0


def _joined(arguments: Sequence[str]) -> list[str]:
    """'--config.lr', '1' -> '--config.lr=1', as absl takes it."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1].startswith("--config.") and "=" not in joined[-1] and not argument.startswith("--"):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined
