"""Public recommendations for XLA's TPU compiler, in groups to be tried as one. No JAX.

Sources: https://openxla.org/xla/flags_guidance and MaxText's benchmarks/xla_flags_library.py
(github.com/AI-Hypercomputer/maxtext). What they do to a step is the compiler's estimate (`bvd preflight --xla-flags`).
"""

from __future__ import annotations

from collections.abc import Iterable

GROUPS: dict[str, dict[str, str]] = {
    # Of the fast memory of a core, for the compiler's own buffers.
    "vmem": {"xla_tpu_scoped_vmem_limit_kib": "98304"},
    # Collectives beside computation, fused with it where possible.
    "async": {
        "xla_tpu_enable_async_collective_fusion": "true",
        "xla_tpu_enable_async_collective_fusion_fuse_all_gather": "true",
        "xla_tpu_enable_async_collective_fusion_multiple_steps": "true",
        "xla_tpu_overlap_compute_collective_tc": "true",
        "xla_enable_async_all_gather": "true",
    },
    # All-reduces of gradients beside the backward pass.
    "data_parallel": {
        "xla_tpu_enable_data_parallel_all_reduce_opt": "true",
        "xla_tpu_data_parallel_opt_different_sized_ops": "true",
    },
}


def of(groups: Iterable[str]) -> dict[str, str]:
    """{flag: value} of some groups together. Raises `ValueError` for an unknown one."""
    flags: dict[str, str] = {}
    for name in groups:
        if name not in GROUPS:
            raise ValueError(f"no group of XLA flags {name!r}; possible: {', '.join(GROUPS)}.")
        flags |= GROUPS[name]
    return flags


def environment(groups: Iterable[str]) -> str:
    """What LIBTPU_INIT_ARGS must say, for the compiler of a TPU host to take them."""
    return " ".join(f"--{name}={value}" for name, value in of(groups).items())
