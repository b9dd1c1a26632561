"""`bvd train`: the same as `python -m big_vision_dual.train`."""

from __future__ import annotations

from big_vision_dual.train import command

EXAMPLES = command.EXAMPLES
add_arguments = command.add_arguments
run = command.run
