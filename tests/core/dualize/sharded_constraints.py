"""Run by test_constrain.py on 8 CPU devices: prints as JSON what sharded constraints do. Not a test itself."""

from __future__ import annotations

import json

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from sharded_update import ATOMS, table

from big_vision_dual.core import dualize, trees


def flops(compiled) -> float:
    """Of one device."""
    return compiled.cost_analysis()["flops"]


def main() -> None:
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    rng = np.random.default_rng(0)
    weights, step = (
        trees.unflatten({path: rng.standard_normal(atom[1]).astype(np.float32) for path, atom in ATOMS.items()})
        for _ in range(2)
    )
    weights, step = jax.device_put((weights, step), NamedSharding(mesh, PartitionSpec()))
    kinds = {
        "project": ("project", {}),
        "own": ("hyperball", {"norm": "own"}),
        "frobenius": ("hyperball", {}),
        "radius": ("radius", {"rate": 0.1, "radius": 2.0}),
    }
    difference, share = {}, {}
    for name, (kind, options) in kinds.items():
        alone = dualize.constrain(kind, table(), **options)
        shared = dualize.constrain(kind, table(), shard_axis="data", mesh=mesh, **options)
        whole = jax.jit(alone.update).lower(step, alone.init(weights), weights).compile()
        expected, _ = whole(step, alone.init(weights), weights)
        state = jax.jit(shared.init)(weights)
        compiled = jax.jit(shared.update).lower(step, state, weights).compile()
        got, _ = compiled(step, state, weights)
        difference[name] = max(
            float(np.abs(np.asarray(a) - np.asarray(b)).max())
            for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True)
        )
        share[name] = flops(compiled) / flops(whole)
    print(json.dumps({"difference": difference, "share_of_flops": share}))


if __name__ == "__main__":
    main()
