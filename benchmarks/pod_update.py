"""Where the cycles of a pod's update go: ViT-S/16's update alone, compiled for a slice, without the model around it.

    python benchmarks/pod_update.py --topology v3-8 --polar schatten_4 [--keep]      about 20 seconds of one core

Gradients come whole, as after their all-reduce; momentum and stacks are sharded as in training. Cycles are the TPU
compiler's estimates of single operations, summed by kind, JAX operation and result; collectives have none. With
`--keep` the sums are added to benchmarks/results/pod_update.jsonl; `--show` sums those up by kind.
"""

from __future__ import annotations

import argparse
import collections
import json
import math
import os
import pathlib
import re
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from big_vision_dual.core import dualize, tables, trees
from big_vision_dual.core.dualize.placement import sharded_axis
from big_vision_dual.pods import topologies
from big_vision_dual.pods.hlo import Program
from big_vision_dual.train import compile_cache

RESULTS = pathlib.Path(__file__).parent / "results" / "pod_update.jsonl"
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_RESULT = re.compile(r"\w+\[[\d,]*\]")
_NAME = re.compile(r'op_name="(?:[^"]*/)?([^"/]*)"')


def compiled(topology: str, plan: str, polar: str, radius: float | None, table: str = "vit_s16_i1k") -> Any:
    """The update, and what it adds to the parameters."""
    mesh = Mesh(np.array(topologies.devices(topologies.parse(topology))), ("data",))
    whole, rows = NamedSharding(mesh, P()), tables.load(table)
    params = trees.unflatten({r.path: jax.ShapeDtypeStruct(r.shape, jnp.float32, sharding=whole) for r in rows.rows})
    if plan == "kinds":
        tx = by_kind(mesh, polar)
    else:
        options: dict[str, Any] = {"polar": polar, "dtype": "bfloat16", "shard_axis": "data", "mesh": mesh}
        tx = dualize.dualized(rows, 0.1, radius=radius, **options)

    def placed(leaf: Any) -> jax.ShapeDtypeStruct:
        cut = sharded_axis(leaf.shape, mesh.size) if leaf.ndim == 3 else None
        spec = P(*("data" if axis == cut else None for axis in range(leaf.ndim)))
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))

    state = jax.tree.map(placed, jax.eval_shape(tx.init, params))

    def update(params: Any, gradients: Any, state: Any) -> Any:
        steps, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, steps), state

    shardings = jax.tree.map(lambda leaf: leaf.sharding, (params, state))
    with compile_cache.without():
        return jax.jit(update, donate_argnums=(0, 2), out_shardings=shardings).lower(params, params, state).compile()


def by_kind(mesh: Mesh, polar: str) -> optax.GradientTransformation:
    """The plan of trainers whose layers are scanned: each kind of matrix is one stack over the layers, its momentum cut
    along a matrix axis as its parameter would be; one all-to-all makes whole matrices of it, one gather the steps. What
    is no layer's is computed by every device; vectors keep their momentum. Nesterov, momentum .9, rate .1.
    """

    def on(x: jax.Array, axis: int | None) -> jax.Array:
        spec = P(*("data" if axis == one else None for one in range(x.ndim)))
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))

    def kinds(params: Any) -> dict[str, list[str]]:
        """{kind: paths of its leaves}"""
        found: dict[str, list[str]] = {}
        for path in trees.flatten(params):
            found.setdefault(re.sub(r"encoderblock_\d+", "encoderblock", path), []).append(path)
        return found

    def stack(leaves: Any, paths: list[str]) -> jax.Array:
        """(layers, fan_in, fan_out), or (layers, 1, size) of vectors."""
        shape = leaves[paths[0]].shape
        if not paths[0].endswith("kernel"):
            rows = 1
        else:
            rows = shape[0] if re.search("(query|key|value)/", paths[0]) else math.prod(shape[:-1])
        return jnp.stack([leaves[path].reshape(rows, -1) for path in paths])

    def init(params: Any) -> dict[str, jax.Array]:
        leaves = trees.flatten(params)
        return {kind: jnp.zeros_like(stack(leaves, paths)) for kind, paths in kinds(params).items()}

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, dict[str, jax.Array]]:
        leaves = {path: on(leaf, None) for path, leaf in trees.flatten(updates).items()}
        steps, momenta = {}, {}
        for kind, paths in kinds(params).items():
            whole = stack(leaves, paths)
            cut = sharded_axis(whole.shape, mesh.size)
            gradient = on(whole, cut)
            momenta[kind] = on(0.9 * state[kind] + gradient, cut)
            step = 0.9 * momenta[kind] + gradient
            if whole.shape[1] > 1:
                step = step.astype(jnp.bfloat16)
                if len(paths) > 1:
                    step = on(jnp.pad(step, ((0, -len(paths) % mesh.size), (0, 0), (0, 0))), 0)
                wide = step if step.shape[1] <= step.shape[2] else step.mT
                dual = dualize.orthogonalize(wide, polar, "bfloat16").astype(jnp.bfloat16)
                step = on(dual if wide is step else dual.mT, None)
            for path, of_layer in zip(paths, step, strict=False):
                steps[path] = -0.1 * of_layer.reshape(leaves[path].shape).astype(jnp.float32)
        return trees.unflatten(steps), momenta

    return optax.GradientTransformation(init, update)


def cycles(hlo: str) -> collections.Counter[str]:
    """{'kind operation result': estimated cycles}, bodies of loops as often as they run."""
    found: collections.Counter[str] = collections.Counter()
    program = Program(hlo)
    for computation, times in program.executions().items():
        for name, instruction in program.computations[computation].items():
            if estimate := _CYCLES.search(instruction.rest):
                kind, operation = re.sub(r"[.\d]+$", "", name), _NAME.search(instruction.rest)
                result = _RESULT.search(instruction.shape)
                shown = f"{kind} {operation[1] if operation else '-'} {result[0] if result else '-'}"
                found[shown] += int(times * int(estimate[1]))
    return found


KINDS = {
    "products of head and stem": r"dot_general \w+\[(1,)?384,(384|768|1000)\]$",
    "other products": r"dot_general",
    "biases, scales": r"f32\[(384|6,64|1536|)\]$",
    "parameters less steps": r"^(fusion|bitcast_add_fusion|copy_add_fusion|add) add f32",
    "packed, sent, turned": r"slice|copy|pad|reshape|transpose|bitcast|concat|sharding|convert_element_type",
    "else": r"",
}
"""What an operation is part of, by the first pattern that its name, JAX operation and result match (ViT-S/16)."""


def show() -> None:
    """Markdown: thousands of cycles by kind, of the last row of each slice and plan."""
    rows = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    last = {tuple(row.get(key) for key in ("topology", "plan", "polar", "radius")): row for row in rows}
    print(f"| slice | plan | polar | radius | in all | {' | '.join(KINDS)} |")
    print(f"|---|---|---|---|---:|{'---:|' * len(KINDS)}")
    for what, row in last.items():
        sums = dict.fromkeys(KINDS, 0)
        for name, count in row["cycles"].items():
            sums[next(kind for kind, pattern in KINDS.items() if re.search(pattern, name))] += count
        cells = [f"{count / 1e3:,.0f}" for count in (sum(sums.values()), *sums.values())]
        print(f"| {' | '.join(str(one or '') for one in what)} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topology", default="v3-8")
    parser.add_argument("--plan", default="ours", choices=("ours", "kinds"), help="whose stacks (see by_kind)")
    parser.add_argument("--polar", default="schatten_4")
    parser.add_argument("--radius", type=float, help="of the ball that holds the weights; none where not given")
    parser.add_argument("--most", type=int, default=30, help="how many to show")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--show", action="store_true", help="only sum up what was kept")
    args = parser.parse_args()
    if args.show:
        show()
        return
    program = compiled(args.topology, args.plan, args.polar, args.radius)
    found, seconds = cycles(program.as_text()), program.cost_analysis()["optimal_seconds"]
    what = {"topology": args.topology, "plan": args.plan, "polar": args.polar, "radius": args.radius}
    print(*what.values(), f"{seconds * 1e3:.3f} ms by the compiler, {found.total():,} cycles", sep=", ")
    for name, count in found.most_common(args.most):
        print(f"{count:9,} {name}")
    if args.keep:
        row = what | {"seconds": seconds, "jax": jax.__version__}
        with RESULTS.open("a") as file:
            file.write(json.dumps(row | {"cycles": dict(found.most_common())}) + "\n")


if __name__ == "__main__":
    main()
