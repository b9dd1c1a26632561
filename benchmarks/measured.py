"""What unit steps do to the output of real models, beside what their norm trees declare; and what measuring costs.

    python benchmarks/measured.py                     # five models, about 3 minutes
    python benchmarks/measured.py --cost vit_s16_i1k_dual   # seconds and memory for one recipe
    python benchmarks/measured.py --directions [--text FILE]   # random against gradients', models and data of the race
    python benchmarks/measured.py --steps              # AdamW's, Muon's and our real steps, of the race's ViT

Writes benchmarks/results/measured.json and docs/figures/measured.png. Every atom of each model at initialization, on
random inputs; declared is the table's sensitivity, a bound on the change of the output per unit step.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import resource
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib
import measured_race
import numpy as np
from flax import nnx

import big_vision_dual as bvd
from big_vision_dual import models
from big_vision_dual.core import files, measured
from big_vision_dual.lab.studies import dataset, grid, measuring, settings, target_norms
from big_vision_dual.models import init, norm_trees
from big_vision_dual.train import recipes

matplotlib.use("Agg")
from matplotlib import pyplot as plt

RESULTS = pathlib.Path(__file__).parent / "results" / "measured.json"
FIGURE = pathlib.Path(__file__).parent.parent / "docs" / "figures" / "measured.png"
EXAMPLES = 4
n = bvd.norms


class Subject(NamedTuple):
    """A model with a declared table: apply(params, batch) -> output."""

    apply: Callable[[Any, Any], jax.Array]
    params: Any
    batch: Any
    table: bvd.TargetNormTable


def of_config(config: Mapping[str, Any], examples: int = EXAMPLES) -> Subject:
    """A model of ours, on random images or tokens."""
    model, shape = models.of(config), (examples, *config["input_shape"])
    rng = np.random.default_rng(0)
    tokens = init.of_tokens(config)
    batch = rng.integers(0, config["num_classes"], shape) if tokens else rng.uniform(-1, 1, shape).astype(np.float32)
    params = jax.jit(lambda: init.params(config, model, 0))()
    return Subject(
        lambda params, x: model.apply({"params": params}, x, train=False)[0], params, batch, norm_trees.build(config)
    )


def ours(name: str, model: Mapping[str, Any], shape: tuple[int, ...], classes: int) -> Subject:
    model = {**model, "scaling": "dual"}
    return of_config({"model_name": name, "model": model, "input_shape": shape, "num_classes": classes, "norms": {}})


def resnet(width: int = 16, blocks: int = 3) -> Subject:
    """Residual 3 x 3 convolutions without normalization, mean over pixels, a head."""
    keys = iter(jax.random.split(jax.random.key(1), blocks + 2))

    def orthogonal(fan_in: int, fan_out: int) -> jax.Array:
        square = jax.random.orthogonal(next(keys), max(fan_in, fan_out))[:fan_in, :fan_out]
        return np.sqrt(fan_out / fan_in) * square

    def kernel(fan_in: int) -> jax.Array:
        return jnp.broadcast_to(orthogonal(fan_in, width) / 9, (3, 3, fan_in, width))

    params = {"stem": {"kernel": kernel(3)}, "head": {"kernel": orthogonal(width, 10)}}
    params |= {f"block_{i}": {"kernel": kernel(width)} for i in range(blocks)}

    def conv(x: jax.Array, name: str, params: Any) -> jax.Array:
        dims = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, params[name]["kernel"], (1, 1), "SAME", dimension_numbers=dims)

    def apply(params: Any, x: jax.Array) -> jax.Array:
        x = conv(x, "stem", params)
        for i in range(blocks):
            x = (1 - 1 / blocks) * x + jax.nn.relu(conv(x, f"block_{i}", params)) / blocks
        return jnp.mean(x, axis=(1, 2)) @ params["head"]["kernel"]

    body = (n.residual(n.RELU @ n.conv("block_{layer}/kernel", (3, 3), width, width), blocks) ** blocks).tare(blocks)
    tree = n.linear("head/kernel", width, 10) @ n.MEAN @ body @ n.conv("stem/kernel", (3, 3), 3, width)
    batch = np.random.default_rng(0).uniform(-1, 1, (EXAMPLES, 16, 16, 3)).astype(np.float32)
    return Subject(apply, params, batch, bvd.build_table(tree))


def nnx_mlp(width: int = 32) -> Subject:
    """Two layers of nnx.Linear with ReLU between them."""
    module = nnx.Dict(up=nnx.Linear(12, width, rngs=nnx.Rngs(0)), down=nnx.Linear(width, 10, rngs=nnx.Rngs(1)))
    graph, state = nnx.split(module)

    def apply(state: Any, x: jax.Array) -> jax.Array:
        merged = nnx.merge(graph, state)
        return merged["down"](nnx.relu(merged["up"](x)))

    tree = n.dense("down", width, 10) @ n.RELU @ n.dense("up", 12, width)
    batch = np.random.default_rng(0).standard_normal((EXAMPLES, 12)).astype(np.float32)
    return Subject(apply, state, batch, bvd.build_table(tree))


SUBJECTS: dict[str, Callable[[], Subject]] = {
    "ViT": lambda: ours("vit", {"width": 32, "depth": 4, "num_heads": 4, "patch_size": (8, 8)}, (32, 32, 3), 10),
    "GPT": lambda: ours("gpt", {"width": 32, "depth": 4, "num_heads": 4}, (32,), 64),
    "Mamba": lambda: ours("mamba", {"d_model": 32, "n_layers": 4}, (32,), 64),
    "ResNet": resnet,
    "nnx MLP": nnx_mlp,
}


def ratios(subject: Subject) -> dict[str, float]:
    """{row key: measured / declared}, the larger of random directions, the largest over tokens and batch."""
    apply, params, batch, table = subject
    found = measured.measure(apply, params, batch, key=jax.random.key(0), atoms=table, directions=2)
    return _over_declared(found.amplification(), table)


def _over_declared(amplification: Mapping[str, np.ndarray], table: bvd.TargetNormTable) -> dict[str, float]:
    """{row key: measured / declared}, of stacked layers the largest; without rows that declare 0."""
    declared = {row.key: np.asarray(row.sensitivity) for row in table.rows if np.all(np.asarray(row.sensitivity) > 0)}
    return {key: float(np.max(np.asarray(amplification[key]) / value)) for key, value in declared.items()}


def directions(text: str) -> dict[str, dict[str, dict[str, float]]]:
    """{model: {random, gradient: {atom: measured / declared}}}: the race's models, on their data, at initialization."""
    found = {}
    for name, task in measured_race.TASKS.items():
        config = task(text).config
        model, table = models.of(config), norm_trees.build(config)
        apply, loss, (batch,) = target_norms.Subject.of(config, model, dataset.training(config))
        params = jax.jit(lambda config=config, model=model: init.params(config, model, 0))()
        made = measured.measure(apply, params, batch, key=jax.random.key(0), atoms=table, loss=loss)
        found[name] = {along: _over_declared(made.amplification(along), table) for along in ("random", "gradient")}
    return found


def steps(at: int = 100) -> dict[str, dict[str, float]]:
    """{optimizer: {atom: its share of the output's change over its share of the mass}} in one update of the ViT.

    The masses are equal, the learning rates about the best ones (AdamW's not tuned).
    """
    task = measured_race.TASKS["vit"]("")
    adamw = grid.replace(settings.apply("adamw_dual", task.config), {"lr": 2.0**-8, "norms": task.config["norms"]})
    made = {
        "AdamW": adamw,
        "Muon": grid.replace(measured_race.muon(task.config), {"lr": 2.0**-6, "optax.fallback_scale": 1 / 8}),
        "well-normed": grid.replace(task.config, {"lr": 2.0**-4}),
    }
    return {
        name: {share.name: share.ratio for share in measuring.step_shares(config, at=at, factor=4.0)}
        for name, config in made.items()
    }


def cost(recipe: str) -> dict[str, float]:
    """Seconds of wall and CPU to compile and to measure one direction on one example, and the peak memory in GiB."""
    subject = of_config(recipes.load(recipe).to_dict(), examples=1)
    started, began = time.monotonic(), time.process_time()
    apply, params, batch, table = subject
    first = measured.measure(apply, params, batch, key=jax.random.key(0), atoms=table, directions=1, at_once=1)
    seconds, busy = time.monotonic() - started, time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    atoms = len(first.table.rows)
    return {"atoms": atoms, "examples": 1, "seconds": seconds, "cpu_seconds": busy, "peak_GiB": peak}


def _summary(values: Mapping[str, float]) -> str:
    order = sorted(values, key=lambda key: values[key])
    near = sum(1 / 4 <= value <= 4 for value in values.values())
    ends = " to ".join(f"{values[key]:.3g} ({key})" for key in (order[0], order[-1]))
    return f"{near} of {len(values)} atoms within a factor of 4, median {np.median(list(values.values())):.3g}, {ends}"


def draw(found: Mapping[str, Mapping[str, float]]) -> None:
    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    for place, (name, values) in enumerate(found.items()):
        spread = np.linspace(-0.25, 0.25, len(values))
        axes.plot(place + spread, list(values.values()), ".", label=name)
    axes.axhline(1, color="gray", linewidth=1)
    axes.axhspan(0.25, 4, color="gray", alpha=0.12)
    axes.set_yscale("log")
    axes.set_xticks(range(len(found)), list(found))
    axes.set_ylabel("measured / declared")
    axes.set_title("change of the output per unit step of an atom, at initialization")
    figure.savefig(FIGURE, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cost", help="a recipe to measure the cost of")
    parser.add_argument("--steps", action="store_true", help="how far atoms move the output in real steps")
    parser.add_argument("--directions", action="store_true", help="compare random directions with gradients'")
    parser.add_argument("--text", default="", help="of the Mamba; Python's own help texts without it")
    given = parser.parse_args()
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if given.cost:
        known.setdefault("cost", {})[given.cost] = cost(given.cost)
        print(known["cost"][given.cost])
    elif given.steps:
        known["steps"] = steps()
        for name, values in known["steps"].items():
            print(f"{name}: {_summary(values)}")
            print("  largest", ", ".join(f"{key} {value:.3g}" for key, value in list(values.items())[:6]))
    elif given.directions:
        known["directions"] = directions(given.text)
        for name, kinds in known["directions"].items():
            for along, values in kinds.items():
                print(f"{name}, {along}: {_summary(values)}")
    else:
        known["ratios"] = {name: ratios(make()) for name, make in SUBJECTS.items()}
        draw(known["ratios"])
        for name, values in known["ratios"].items():
            print(f"{name}: {_summary(values)}")
    files.write_json(RESULTS, known)


if __name__ == "__main__":
    main()
