"""What does each weight constraint cost? Seconds of an optimizer update with it, over those without.

    python benchmarks/constraints.py vit_ti16_i1k --repeats 5

The ratio is of the whole update (momentum, duals, constraint), measured in turns in one process; an update is a small
share of a training step (docs/performance.md).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from big_vision_dual.core import dualize, tables, trees

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "none": ("none", {}),
    "decay": ("decay", {"rate": 1e-4}),
    "radius": ("radius", {"rate": 0.1, "radius": 25.0}),
    "radius, cautious": ("radius", {"rate": 0.1, "radius": 25.0, "cautious": True}),
    "hyperball": ("hyperball", {}),
    "hyperball, own norm": ("hyperball", {"norm": "own"}),
    "project": ("project", {}),
}


def update_of(kind: str, options: dict[str, Any], table: tables.TargetNormTable, params: Any) -> Callable[[], Any]:
    """A compiled update that waits for its result."""
    tx = optax.chain(
        dualize.scale_by_dualize(table), optax.scale_by_learning_rate(0.1), dualize.constrain(kind, table, **options)
    )
    state = tx.init(params)
    compiled = jax.jit(tx.update).lower(params, state, params).compile()
    return lambda: jax.block_until_ready(compiled(params, state, params))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", help="a JSON file, or a name in norm_cache")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    table, rng = tables.load(args.table), np.random.default_rng(0)
    params = jax.device_put(trees.unflatten({
        path: rng.standard_normal(rows[0].shape).astype(np.float32) for path, rows in table.by_path().items()
    }))  # fmt: skip
    updates = {name: update_of(kind, options, table, params) for name, (kind, options) in KINDS.items()}
    clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter  # others may use the cores
    seconds: dict[str, list[float]] = {name: [] for name in updates}
    for _ in range(args.repeats + 1):  # the first turn warms up
        for name, update in updates.items():
            started = clock()
            update()
            seconds[name].append(clock() - started)
    medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    for name, median in medians.items():
        print(f"{name:22} {median:.3f} s  {median / medians['none']:.2f}")


if __name__ == "__main__":
    main()
