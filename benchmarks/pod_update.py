"""Where the cycles of a pod's update go: ViT-S/16's update alone, compiled for a slice, without the model around it.

    python benchmarks/pod_update.py --topology v3-8 --polar schatten_4 [--keep]      about 20 seconds of one core

Gradients come whole, as after their all-reduce; momentum and stacks are sharded as in training. Cycles are the TPU
compiler's estimates of single operations, summed by kind, JAX operation and result; collectives have none. With
`--keep` the sums are added to benchmarks/results/pod_update.jsonl.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import pathlib
import re
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from big_vision_dual.core import dualize, tables, trees
from big_vision_dual.core.dualize.placement import sharded_axis
from big_vision_dual.pods import topologies
from big_vision_dual.train import compile_cache

RESULTS = pathlib.Path(__file__).parent / "results" / "pod_update.jsonl"
_OPERATION = re.compile(r"%([a-z_\-]+)[.\d]* = \(?(\w+\[[\d,]*\]).*\"estimated_cycles\":\"(\d+)\"")
_NAME = re.compile(r'op_name="(?:[^"]*/)?([^"/]*)"')


def compiled(topology: str, polar: str, radius: float | None, table: str = "vit_s16_i1k") -> Any:
    """The update, and what is taken off the parameters."""
    mesh = Mesh(np.array(topologies.devices(topologies.parse(topology))), ("data",))
    whole, rows = NamedSharding(mesh, P()), tables.load(table)
    params = trees.unflatten({r.path: jax.ShapeDtypeStruct(r.shape, jnp.float32, sharding=whole) for r in rows.rows})
    options: dict[str, Any] = {"momentum": 0.9, "nesterov": True, "polar": polar, "dtype": "bfloat16"}
    tx = dualize.dualized(rows, 0.1, radius=radius, shard_axis="data", mesh=mesh, **options)

    def placed(leaf: Any) -> jax.ShapeDtypeStruct:
        cut = sharded_axis(leaf.shape, mesh.size) if leaf.ndim else None
        spec = P(*("data" if axis == cut else None for axis in range(leaf.ndim)))
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))

    state = jax.tree.map(placed, jax.eval_shape(tx.init, params))

    def update(params: Any, gradients: Any, state: Any) -> Any:
        steps, state = tx.update(gradients, state, params)
        return jax.tree.map(lambda p, step: p + step, params, steps), state

    shardings = jax.tree.map(lambda leaf: leaf.sharding, (params, state))
    with compile_cache.without():
        return jax.jit(update, donate_argnums=(0, 2), out_shardings=shardings).lower(params, params, state).compile()


def cycles(hlo: str) -> collections.Counter[str]:
    """{'kind operation result': estimated cycles}."""
    found: collections.Counter[str] = collections.Counter()
    for line in hlo.splitlines():
        if match := _OPERATION.search(line):
            name = _NAME.search(line)
            found[f"{match[1]} {name[1] if name else '-'} {match[2]}"] += int(match[3])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topology", default="v3-8")
    parser.add_argument("--polar", default="schatten_4")
    parser.add_argument("--radius", type=float, help="of the ball that holds the weights; none where not given")
    parser.add_argument("--most", type=int, default=30, help="how many to show")
    parser.add_argument("--keep", action="store_true")
    args = parser.parse_args()
    program = compiled(args.topology, args.polar, args.radius)
    found, seconds = cycles(program.as_text()), program.cost_analysis()["optimal_seconds"]
    what = {"topology": args.topology, "polar": args.polar, "radius": args.radius}
    print(*what.values(), f"{seconds * 1e3:.3f} ms by the compiler, {found.total():,} cycles", sep=", ")
    for name, count in found.most_common(args.most):
        print(f"{count:9,} {name}")
    if args.keep:
        row = what | {"seconds": seconds, "jax": jax.__version__}
        with RESULTS.open("a") as file:
            file.write(json.dumps(row | {"cycles": dict(found.most_common())}) + "\n")


if __name__ == "__main__":
    main()
