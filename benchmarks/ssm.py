"""Scans of Mamba and Mamba-2: chunked against sequential and associative, forward and backward, time and memory.

    JAX_PLATFORMS=cpu python benchmarks/ssm.py [--length 1024] [--repeats 5]

Prints one line a form and the ratios to the chunked one, measured in this run: the forms take turns, so that a
busy machine slows them alike, and the median counts. Memory is what the compiled program allocates besides its
arguments and results (`compiled.memory_analysis().temp_size_in_bytes`).
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp

from big_vision_dual.models import scans

BATCH = 4
FORMS = ("chunked", "sequential", "associative")


def mamba_inputs(length: int) -> tuple[jax.Array, ...]:
    """256 channels, 16 states: a Mamba block of width 128."""
    channels, state = 256, 16
    return _inputs(length, (channels,), (channels,), (channels, state), (state,))


def mamba2_inputs(length: int) -> tuple[jax.Array, ...]:
    """16 heads of 16 channels, 64 states: a Mamba-2 block of width 128."""
    heads, width, state = 16, 16, 64
    return _inputs(length, (heads, width), (heads,), (heads,), (1, state))


def _inputs(length: int, x: tuple, delta: tuple, a: tuple, bc: tuple) -> tuple[jax.Array, ...]:
    keys = jax.random.split(jax.random.key(0), 5)
    draw = [
        jax.random.normal(key, (BATCH, length, *shape)) for key, shape in zip(keys, (x, delta, bc, bc), strict=False)
    ]
    decay = -jnp.exp(jax.random.normal(keys[4], a))
    return draw[0], jax.nn.softplus(draw[1] - 3), decay, draw[2], draw[3]


def compiled(function: Any, form: str, inputs: tuple[jax.Array, ...]) -> Any:
    """Forward and backward through one form, ahead of time."""
    loss = lambda values: jnp.sum(jnp.sin(function(*values, scan=form)))  # noqa: E731
    return jax.jit(jax.grad(loss)).lower(inputs).compile()


def measure(programs: dict[str, Any], inputs: tuple[jax.Array, ...], repeats: int) -> dict[str, float]:
    """{form: median seconds}, the forms taking turns."""
    seconds: dict[str, list[float]] = {form: [] for form in programs}
    for turn in range(repeats + 1):
        for form, program in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(program(inputs))
            if turn:  # the first turn warms up
                seconds[form].append(time.perf_counter() - start)
    return {form: statistics.median(values) for form, values in seconds.items()}


def report(name: str, function: Any, inputs: tuple[jax.Array, ...], repeats: int) -> None:
    programs = {form: compiled(function, form, inputs) for form in FORMS}
    seconds = measure(programs, inputs, repeats)
    memory = {form: program.memory_analysis().temp_size_in_bytes for form, program in programs.items()}
    print(f"\n{name}: {jax.devices()[0].device_kind}, batch {BATCH}, length {inputs[0].shape[1]}, forward + backward")
    print("| form | ms | MiB | times slower | times larger |\n|---|---|---|---|---|")
    for form in FORMS:
        ratios = f"{seconds[form] / seconds['chunked']:.1f} | {memory[form] / memory['chunked']:.1f}"
        print(f"| {form} | {seconds[form] * 1e3:.0f} | {memory[form] / 2**20:.0f} | {ratios} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    run = functools.partial(report, repeats=arguments.repeats)
    run("Mamba (chunks of 32)", scans.selective_scan, mamba_inputs(arguments.length))
    run("Mamba-2 (chunks of 32)", scans.ssd, mamba2_inputs(arguments.length))


if __name__ == "__main__":
    main()
