"""The command `bvd`."""

from big_vision_dual.cli.main import main

__all__ = ["main"]
