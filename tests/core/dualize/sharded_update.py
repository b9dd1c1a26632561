"""Run by test_placement.py on 8 CPU devices: prints as JSON what the sharded update does. Not a test itself."""

from __future__ import annotations

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from big_vision_dual.core import dualize, trees
from big_vision_dual.core.tables import Row, TargetNormTable

COLLECTIVE = re.compile(r" = .* (all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)(?:-start)?\(")
ATOMS = {  # path: (atom, shape, fan_in, fan_out); stacks of 6, 4, 1 and 5 matrices on 8 devices
    **{f"block_{i}/{name}/kernel": ("Linear", (16, 4, 4), (0,), (1, 2)) for i in range(2) for name in "qkv"},
    **{f"block_{i}/up/kernel": ("Linear", (16, 40), (0,), (1,)) for i in range(2)},
    **{f"block_{i}/down/kernel": ("Linear", (40, 16), (0,), (1,)) for i in range(2)},
    "head/kernel": ("Linear", (16, 24), (0,), (1,)),
    **{f"block_{i}/bias": ("Bias", (16,), (), (0,)) for i in range(5)},
}


def table() -> TargetNormTable:
    rows = [Row(path, atom, i, o, (), shape, 1.0, 1.0, 0.1) for path, (atom, shape, i, o) in ATOMS.items()]
    return TargetNormTable("test", {}, (1,), {}, 1.0, 1.0, tuple(rows))


def loss(params, x_BxD):
    """Any function whose gradients are sums over the data axis and touch all leaves."""
    return sum(jnp.sum(jnp.tanh(x_BxD[:, : leaf.shape[0]] @ leaf.reshape(leaf.shape[0], -1)))
               for leaf in jax.tree.leaves(params))  # fmt: skip


def compiled_step(devices, **options):
    tx = dualize.scale_by_dualize(table(), **options)
    rng = np.random.default_rng(0)
    params = trees.unflatten({path: rng.standard_normal(atom[1]).astype(np.float32) for path, atom in ATOMS.items()})
    params = jax.device_put(params, NamedSharding(devices, PartitionSpec()))
    x = jax.device_put(rng.standard_normal((16, 40)).astype(np.float32), NamedSharding(devices, PartitionSpec("data")))

    def step(params, state, x):
        return tx.update(jax.grad(loss)(params, x), state)

    state = jax.jit(tx.init)(params)
    compiled = jax.jit(step).lower(params, state, x).compile()
    updates, state = compiled(params, state, x)
    return compiled.as_text() or "", jax.tree.map(np.asarray, updates), state


def computations(hlo: str) -> tuple[str, str]:
    """(the entry computation, all others) of an HLO module."""
    entry = hlo[hlo.index("\nENTRY ") :]
    return entry, hlo[: hlo.index("\nENTRY ")]


def kinds(text: str) -> dict[str, int]:
    found = COLLECTIVE.findall(text)
    return {kind: found.count(kind) for kind in sorted(set(found))}


def main() -> None:
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    options = {"polar": "polar_express:3", "unroll": True, "mesh": mesh}
    hlo, updates, state = compiled_step(mesh, shard_axis="data", **options)
    longer, _, _ = compiled_step(mesh, shard_axis="data", **{**options, "polar": "polar_express:5"})
    _, replicated, _ = compiled_step(mesh, **options)
    with jax.set_mesh(mesh):
        looped, by_context, _ = compiled_step(mesh, shard_axis="data", polar="polar_express:3")
    momentum = [leaf for leaf in jax.tree.leaves(state) if leaf.ndim == 3]  # of matrices
    difference = max(float(np.abs(a - b).max()) for other in (replicated, by_context) for a, b in zip(
        jax.tree.leaves(updates), jax.tree.leaves(other), strict=True))  # fmt: skip
    print(json.dumps({
        "collectives": kinds(hlo),
        "collectives_of_5_steps": kinds(longer),
        "inside_loops": kinds(computations(looped)[1]),
        "momentum_bytes": sum(leaf.nbytes for leaf in momentum),
        "momentum_bytes_per_device": sum(leaf.addressable_shards[0].data.nbytes for leaf in momentum),
        "difference": difference,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
