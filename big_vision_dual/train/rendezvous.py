"""All hosts of a run meet before JAX joins them, so that one that does not come is named and not waited for.

Host 0 listens on the coordinator's port, which JAX takes over once all have come. Each host says its rank and name, and
hears who is missing when the time is up. Without JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID (TPU
pods, Slurm) nobody knows the port before JAX does: there only JAX's own limit holds, which names no host.
"""

from __future__ import annotations

import contextlib
import json
import platform
import socket
import time
from typing import Any

_PAUSE_SECONDS = 0.2
_GREETING = "bvd-host"


class HostMissing(RuntimeError):
    """A host that did not come in time."""


def meet(address: str, hosts: int, rank: int, seconds: float) -> None:
    """Returns on every host once all have come; raises HostMissing on every one that did when one has not.

    address: 'HOST:PORT' of the coordinator. seconds: from here on.
    """
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + seconds
    if rank == 0:
        absent = _gather(int(port), hosts, deadline)
    else:
        absent = _announce(host.strip("[]"), int(port), rank, deadline)
    if absent:
        raise HostMissing(
            f"host {', '.join(map(str, absent))} of {hosts} (counted from 0) did not join within {seconds:g} s; the "
            "cause is in its log. Run the same command on every host; BVD_JOIN_SECONDS gives them more time."
        )


def _gather(port: int, hosts: int, deadline: float) -> list[int]:
    """Host 0: the ranks that have not come; all that have are told."""
    came: dict[int, socket.socket] = {}
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("", port), reuse_port=False))
        while len(came) < hosts - 1 and (left := deadline - time.monotonic()) > 0:
            server.settimeout(left)
            with contextlib.suppress(OSError, ValueError, TypeError, LookupError):  # of a caller that is none of ours
                caller, _ = server.accept()
                stack.enter_context(caller)
                caller.settimeout(5)
                greeting: Any = json.loads(caller.makefile().readline())
                if greeting[0] == _GREETING:
                    came[int(greeting[1])] = caller
        absent = sorted(set(range(1, hosts)) - came.keys())
        for caller in came.values():
            with contextlib.suppress(OSError):
                caller.sendall(json.dumps([_GREETING, absent]).encode() + b"\n")
    return absent


def _announce(host: str, port: int, rank: int, deadline: float) -> list[int]:
    """Any other host: what host 0 says of who is missing; host 0 itself where it does not answer."""
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection((host, port), timeout=left) as call:
                call.sendall(json.dumps([_GREETING, rank, platform.node()]).encode() + b"\n")
                call.settimeout(left + _PAUSE_SECONDS * 5)
                answer = json.loads(call.makefile().readline())
                if answer[0] == _GREETING:
                    return answer[1]
        except (OSError, ValueError, IndexError, TypeError):  # not there yet, or JAX's own server already
            pass
        time.sleep(_PAUSE_SECONDS)
    return [0]
