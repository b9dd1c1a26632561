"""Says what it means that native code aborts this process, which leaves Python no chance to say so itself."""

from __future__ import annotations

import faulthandler
import subprocess
import sys

_WITNESS = "import sys; dump = sys.stdin.read(); sys.exit(sys.argv[1] if 'Aborted' in dump else dump or 0)"


def explain(text: str) -> None:
    """Has `text` printed to stderr should this process be aborted (SIGABRT).

    A second process reads what faulthandler writes in that moment, and ends with this one. Of other crashes it
    prints the Python stack, as faulthandler itself would.
    """
    command = [sys.executable, "-I", "-S", "-c", _WITNESS, text]
    witness = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    assert witness.stdin is not None
    faulthandler.enable(witness.stdin, all_threads=False)
