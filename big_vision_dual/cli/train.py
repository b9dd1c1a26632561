"""`bvd train`: the same as `python -m big_vision_dual.train`."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """As `python -m big_vision_dual.train`."""
    from big_vision_dual import train

    train.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Trains."""
    from big_vision_dual import train

    train.run(args.config, args.workdir, args.distributed, args.overrides)
    return 0
