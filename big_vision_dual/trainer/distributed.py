"""Joins the processes of a pod into one JAX program, and leaves a single host alone."""

from __future__ import annotations

import os
import urllib.error
import urllib.request

import jax

MODES = ("auto", "on", "off")
_METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/worker-network-endpoints"


def initialize(mode: str = "auto") -> None:
    """Calls `jax.distributed.initialize()` where there is more than one host; before any other JAX call.

    mode: 'auto' asks the environment (`hosts`), 'on' and 'off' decide. JAX reads addresses and ranks from
      JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, or finds them itself on TPU pods,
      GKE and Slurm.
    """
    if mode not in MODES:
        raise ValueError(f"distributed mode {mode!r}; possible: {', '.join(MODES)}.")
    if mode == "off" or (mode == "auto" and hosts() < 2):
        return
    rank = os.environ.get("JAX_PROCESS_ID")
    count = os.environ.get("JAX_NUM_PROCESSES")
    jax.distributed.initialize(num_processes=int(count) if count else None, process_id=int(rank) if rank else None)


def hosts() -> int:
    """How many processes this run has, as far as the environment tells."""
    for variable in ("JAX_NUM_PROCESSES", "SLURM_NTASKS"):
        if variable in os.environ:
            return int(os.environ[variable])
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
