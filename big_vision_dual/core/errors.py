"""Wrong input: the nearest right name, and one readable message with an exit status in place of a traceback."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable, Iterable

from big_vision_dual.core import extras

STATUS, INTERRUPTED = 2, 130
TRACEBACK = "BVD_TRACEBACK"


def guarded(program: str, command: Callable[[], int]) -> int:
    """Runs `command`; prints errors that explain themselves and returns `STATUS` for them.

    These are this package's own errors, ValueError, OSError, the lack of a package that an extra brings, and Ctrl-C
    (`INTERRUPTED`). Others, and all of them where the environment variable BVD_TRACEBACK is set, keep their traceback.
    """
    try:
        return command()
    except ModuleNotFoundError as error:
        line = extras.remedy(error)
        if line is None or os.environ.get(TRACEBACK):
            raise
        print(f"{program}: {line}", file=sys.stderr)
        return STATUS
    except Exception as error:
        ours = type(error).__module__.startswith("big_vision_dual")
        if os.environ.get(TRACEBACK) or not (ours or isinstance(error, ValueError | OSError)):
            raise
        print(f"{program}: {error}\n({TRACEBACK}=1 shows where it was raised.)", file=sys.stderr)
        return STATUS
    except KeyboardInterrupt:
        print(f"\n{program}: interrupted", file=sys.stderr)
        return INTERRUPTED


def did_you_mean(name: str, possible: Iterable[str]) -> str:
    """' (did you mean ...?)' with the nearest names, or nothing."""
    nearest = difflib.get_close_matches(name, list(possible), n=3, cutoff=0.5)
    return f" (did you mean {' or '.join(map(repr, nearest))}?)" if nearest else ""
