"""`bvd train`: the same as `python -m big_vision_dual.train`."""

from __future__ import annotations

import argparse

from big_vision_dual import train

add_arguments = train.add_arguments


def run(args: argparse.Namespace) -> int:
    """Trains."""
    return train.run(args, args.overrides)
