"""`bvd train`: the same as `python -m big_vision_dual.train`."""

from __future__ import annotations

import argparse

from big_vision_dual.train import command

add_arguments = command.add_arguments


def run(args: argparse.Namespace) -> int:
    """Trains."""
    return command.run(args, args.overrides)
