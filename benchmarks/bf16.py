"""Do real gradients need more than bfloat16 in the orthogonalization?

    python benchmarks/bf16.py --config mnist5k_vit_dual --steps 0,3,10,30,100,300 --out vit.json
    python benchmarks/bf16.py --config mamba_bytes_dual:FILE --steps 0,3,10,30,100,300 --out mamba.json
    python benchmarks/bf16.py --config mnist5k_vit_dual --train 8 --out train.jsonl

Trains the config, and at these steps takes what `scale_by_dualize` orthogonalizes, the momentum of every Linear. Per
matrix: the stable rank, and the relative Frobenius error of the orthogonalization in bfloat16 against float32, with all
iterations in bfloat16 and with the first few in float32. With --train, instead, the config's own training in both
dtypes, so many seeds each.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from big_vision_dual.core.dualize import groups, polar
from big_vision_dual.lab.studies import fit, grid, sweep
from big_vision_dual.lab.studies.program import Program
from big_vision_dual.lab.studies.results import Results
from big_vision_dual.train import recipes

METHODS, IN_FLOAT32 = ("newton_schulz_6", "polar_express", "muon_5"), range(5)  # of its iterations, the first
NAMES = {
    f"{method}, {count} in float32": (polar.get(method), count)
    for method, count in itertools.product(METHODS, IN_FLOAT32)
}


def orthogonalized(x: jax.Array, method: polar.Polar, exact: int) -> jax.Array:
    """The polar factor with the first `exact` iterations in float32 and the others in bfloat16."""
    x = polar.normalized(x)
    for dtype, part in ((jnp.float32, method.coefficients[:exact]), (jnp.bfloat16, method.coefficients[exact:])):
        x = polar._iterate(x, dataclasses.replace(method, coefficients=part), jnp.dtype(dtype), 1) if part else x
    return x


@jax.jit
def errors(x: jax.Array) -> dict[str, jax.Array]:
    """Of a stack (B, n, m): {name: one value a matrix}."""
    x = x.mT if x.shape[-2] > x.shape[-1] else x
    singular = jnp.linalg.svd(x, compute_uv=False)
    found = {"stable rank": jnp.sum(singular**2, -1) / singular[:, 0] ** 2}
    for name, (method, count) in NAMES.items():
        exact = polar.orthogonalize(x, method, "float32")
        off = jnp.linalg.norm(orthogonalized(x, method, count) - exact, axis=(-2, -1))
        found[name] = off / jnp.linalg.norm(exact, axis=(-2, -1))
    return found


def measure(config: Any, steps: list[int]) -> list[dict[str, Any]]:
    """One row a step and matrix."""
    program = Program.of(config)
    assert program.table is not None, "the config is dualized"
    given, data = program.numbers_of(config), program.data()
    momentum = float(config["optax"]["momentum"])
    update = jax.jit(program.update)
    state = jax.jit(program.init)(given)
    held = jax.tree.map(jnp.zeros_like, state.params)
    stacks = [group for group in groups.make(program.table.rows).values() if group.atom in ("Linear", "Conv")]
    rows = []
    for step in range(max(steps) + 1):
        done = update(state, given, data)
        held = jax.tree.map(lambda m, g: momentum * m + (1 - momentum) * g, held, done.gradient)
        if step in steps:
            leaves = groups.split(held, program.table)
            for group in stacks:
                found = jax.tree.map(np.asarray, errors(group.pack(leaves)))
                for index in range(len(found["stable rank"])):
                    values = {name: round(float(value[index]), 5) for name, value in found.items()}
                    rows.append({"step": step, "matrix": f"{group.name} {index}", **values})
        state = done.state
    return rows


def train(config: Any, seeds: int, path: pathlib.Path) -> None:
    """Trains in both dtypes and prints losses and the difference, paired over seeds."""
    trials = grid.product(config, {"optax.dtype": ["float32", "bfloat16"], "seed": range(seeds)})
    records, _ = sweep.run(trials, Results(path))
    for what in ("train_loss", "val_loss", "val_accuracy"):
        exact_S, low_S = np.array([record["result"][what] for record in records]).reshape(2, seeds)
        print(f"{what}: float32 {exact_S.mean():.4f} ± {exact_S.std(ddof=1):.4f}, bfloat16 {low_S.mean():.4f} ± "
              f"{low_S.std(ddof=1):.4f}, difference {fit.mean_interval(low_S - exact_S)}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--steps", default="0")
    parser.add_argument("--train", type=int, default=0, metavar="SEEDS")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args, overrides = parser.parse_known_args()
    if args.train:
        train(recipes.load(args.config, overrides).to_dict(), args.train, args.out)
        return
    steps = [int(step) for step in args.steps.split(",")]
    config = grid.replace(recipes.load(args.config, overrides).to_dict(), {"total_steps": max(steps) + 1})
    rows = measure(config, steps)
    args.out.write_text(json.dumps(rows, indent=0) + "\n")
    for step in steps:
        own = [row for row in rows if row["step"] == step]
        ranks = np.array([row["stable rank"] for row in own])
        print(f"step {step}: {len(own)} matrices, stable rank {np.median(ranks):.1f} (from {ranks.min():.1f})")
        for name in NAMES:
            values = np.array([row[name] for row in own])
            print(f"  {name}: {np.median(values):.3f} (to {values.max():.3f})")


if __name__ == "__main__":
    main()
