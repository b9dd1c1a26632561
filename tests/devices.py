"""Processes with several CPU devices."""

import os


def flags(count: int) -> str:
    """XLA_FLAGS of this process, with so many devices."""
    return f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"


def environment(count: int) -> dict[str, str]:
    """This process' environment variables, with so many devices."""
    return {**os.environ, "XLA_FLAGS": flags(count), "JAX_PLATFORMS": "cpu"}
