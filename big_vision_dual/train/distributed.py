"""Joins the processes of a pod into one JAX program that fails as one, and leaves a single host alone."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import traceback
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import NoReturn

import jax

from big_vision_dual.core import errors
from big_vision_dual.train import aborts, rendezvous

MODES = ("auto", "on", "off")
HEARTBEAT, JOIN = "BVD_HEARTBEAT_SECONDS", "BVD_JOIN_SECONDS"
_HEARTBEAT_SECONDS, _JOIN_SECONDS = 100, 300  # JAX's own defaults
_INTERRUPTED = 130  # 128 + SIGINT
_FAREWELL_SECONDS = 5  # hosts that fail for the same reason do so within this
_METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/worker-network-endpoints"
_CONTINUE = (
    "The workdir is intact, only steps since its newest checkpoint are lost: the same command on every host "
    "continues there."
)
_ABORTED = (
    "JAX aborted this process, for the reason above. If it says that a task died, sent no heartbeats or did not "
    f"answer, look for the cause in the log of that task, another host of this run. {_CONTINUE}"
)
_SIGNS = ("Gloo", "UNAVAILABLE", "DEADLINE_EXCEEDED", "heartbeat", "Barrier failed")  # in what JAX raises


class HostLost(RuntimeError):
    """Another host of the run died or cannot be reached."""


@contextlib.contextmanager
def joined(mode: str = "auto") -> Iterator[None]:
    """Context in which this process is part of the pod; enter it before any other use of JAX.

    mode: 'auto' joins where there is more than one host (`hosts`), 'on' and 'off' decide. JAX reads addresses and
      ranks from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, or finds them itself on TPU pods,
      GKE and Slurm.

    A host that fails prints why and ends at once, since the others cannot go on without it. They learn of it from a
    collective that breaks (`HostLost`, as on CPUs), or JAX aborts them: at once when host 0 is gone, else when it
    has sent no heartbeat for as long as the environment variable BVD_HEARTBEAT_SECONDS says (default 100).
    Hosts wait for each other to join for BVD_JOIN_SECONDS (default 300); who is missing is named where the
    coordinator's address is in the environment, see `rendezvous`.
    """
    if mode not in MODES:
        raise ValueError(f"distributed mode {mode!r}; possible: {', '.join(MODES)}.")
    if mode == "off" or (mode == "auto" and hosts() < 2):
        yield
        return
    _meet()
    aborts.explain(_ABORTED)
    _initialize()
    try:
        with lost_hosts_named():
            yield
    except KeyboardInterrupt:
        print(f"\n{_who()}: interrupted. {_CONTINUE}", file=sys.stderr, flush=True)
        os._exit(_INTERRUPTED)
    except Exception as error:
        _fail(error)


@contextlib.contextmanager
def lost_hosts_named() -> Iterator[None]:
    """Raises HostLost in place of what JAX or orbax raise when another host does not answer."""
    try:
        yield
    except Exception as error:
        reason = _sign_of_a_lost_host(error)
        if reason is None:
            raise
        raise HostLost(
            f"another host of this run died or cannot be reached ({reason}); its log has the cause. {_CONTINUE}"
        ) from error


def hosts() -> int:
    """How many processes this run has, as far as the environment tells."""
    for variable in ("JAX_NUM_PROCESSES", "SLURM_NTASKS"):
        if variable in os.environ:
            return _whole(variable, least=1)
    for variable in ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES"):
        if variable in os.environ:
            return len(os.environ[variable].split(","))
    return _cloud_tpu_workers()


def _cloud_tpu_workers() -> int:
    """Workers of the Cloud TPU slice this VM is part of; 1 anywhere else, without a network access."""
    if "TPU_SKIP_MDS_QUERY" in os.environ:  # importing JAX sets it where no TPU chip is attached
        return 1
    request = urllib.request.Request(_METADATA, headers={"Metadata-Flavor": "Google"})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return len(answer.read().decode().split(","))
    except (urllib.error.URLError, TimeoutError):
        return 1


def _meet() -> None:
    named = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    if all(variable in os.environ for variable in named):
        hosts_, rank = _whole(named[1], least=1), _whole(named[2], least=0)
        rendezvous.meet(os.environ[named[0]], hosts_, rank, join_seconds())


def _initialize() -> None:
    jax.distributed.initialize(
        num_processes=_whole("JAX_NUM_PROCESSES", least=1) if "JAX_NUM_PROCESSES" in os.environ else None,
        process_id=_whole("JAX_PROCESS_ID", least=0) if "JAX_PROCESS_ID" in os.environ else None,
        heartbeat_timeout_seconds=heartbeat_seconds(),
        initialization_timeout=join_seconds(),
    )


def heartbeat_seconds() -> int:
    """After how many seconds of silence a host counts as dead."""
    return _whole(HEARTBEAT, least=1) if HEARTBEAT in os.environ else _HEARTBEAT_SECONDS


def join_seconds() -> int:
    """How long hosts wait until all have joined."""
    return _whole(JOIN, least=1) if JOIN in os.environ else _JOIN_SECONDS


def _whole(variable: str, least: int) -> int:
    """The value of an environment variable."""
    given = os.environ[variable]
    if not given.isdecimal() or int(given) < least:
        raise ValueError(f"the environment variable {variable} is {given!r}; possible: a whole number >= {least}.")
    return int(given)


def _sign_of_a_lost_host(error: BaseException | None) -> str | None:
    """The line of an error, or of what caused it, that tells of a host that does not answer."""
    while error is not None:
        if isinstance(error, jax.errors.JaxRuntimeError) and any(sign in str(error) for sign in _SIGNS):
            return str(error).splitlines()[0][:200]
        error = error.__cause__ or error.__context__
    return None


def _fail(error: Exception) -> NoReturn:
    """Prints the error and ends the process. JAX at exit would first wait for all hosts, for 300 s or an abort."""
    who, status = _who(), 1
    if isinstance(error, HostLost):
        print(f"{who}: {error}", file=sys.stderr)
    else:
        try:
            status = errors.guarded(who, lambda: _raise(error))
        except Exception:
            traceback.print_exc()
        farewell = threading.Thread(target=jax.distributed.shutdown, daemon=True)
        farewell.start()
        farewell.join(_FAREWELL_SECONDS)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _who() -> str:
    return f"host {jax.process_index()} of {jax.process_count()}"


def _raise(error: Exception) -> NoReturn:
    raise error
