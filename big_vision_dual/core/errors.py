"""What a command does with an error in its input: one readable message and an exit status, no traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

STATUS = 2
TRACEBACK = "BVD_TRACEBACK"


def guarded(program: str, command: Callable[[], int]) -> int:
    """Runs `command`; prints errors that explain themselves and returns `STATUS` for them.

    These are this package's own errors, ValueError and FileNotFoundError. Others, and all of them where the
    environment variable BVD_TRACEBACK is set, keep their traceback.
    """
    try:
        return command()
    except Exception as error:
        ours = type(error).__module__.startswith("big_vision_dual")
        if os.environ.get(TRACEBACK) or not (ours or isinstance(error, ValueError | FileNotFoundError)):
            raise
        print(f"{program}: {error}\n({TRACEBACK}=1 shows where it was raised.)", file=sys.stderr)
        return STATUS
