"""What unit steps do to the output of real models, beside what their norm trees declare; and what measuring costs.

    python benchmarks/measured.py [--only NAME ...]          # five models, and variants of three that test a cause
    python benchmarks/measured.py --directions [--text FILE]   # the models and data of the race, gradients' steps too
    python benchmarks/measured.py --widths             # the ViT of `measured_race.py transfer` at four widths
    python benchmarks/measured.py --trained-widths     # the same after 100 steps
    python benchmarks/measured.py --steps              # AdamW's, Muon's and our real steps, of the race's ViT
    python benchmarks/measured.py --cost vit_s16_i1k_dual   # seconds and memory for one recipe

Writes benchmarks/results/measured.json and docs/figures/measured.png. Every atom of each model at initialization;
declared is the table's sensitivity, a bound on the change of the output per unit step. Measured along random steps,
along the gradient's where there is a loss, and along the worst: those that ascent finds to move the output furthest,
each atom alone.
"""

from __future__ import annotations

import argparse
import json
import math
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
from big_vision_dual.models import family, init, norm_trees
from big_vision_dual.train import recipes

matplotlib.use("Agg")
from matplotlib import pyplot as plt

RESULTS = pathlib.Path(__file__).parent / "results" / "measured.json"
FIGURE = pathlib.Path(__file__).parent.parent / "docs" / "figures" / "measured.png"
EXAMPLES = 4
KEY = jax.random.key(0)
n = bvd.norms


class Subject(NamedTuple):
    """A model with a declared table: apply(params, batch) -> output."""

    apply: Callable[[Any, Any], jax.Array]
    params: Any
    batch: Any
    table: bvd.TargetNormTable


def of_config(config: Mapping[str, Any], examples: int = EXAMPLES, output: str = "logits") -> Subject:
    """A model of ours, on random images or tokens. output: the name of an intermediate."""
    model, shape = models.of(config), (examples, *config["input_shape"])
    rng = np.random.default_rng(0)
    tokens = init.of_tokens(config)
    batch = rng.integers(0, config["num_classes"], shape) if tokens else rng.uniform(-1, 1, shape).astype(np.float32)
    params = jax.jit(lambda: init.params(config, model, 0))()

    def apply(params: Any, x: Any) -> Any:
        return model.apply({"params": params}, x, train=False)[1][output]

    return Subject(apply, params, batch, norm_trees.build(config))


def ours(name: str, model: Mapping[str, Any], shape: tuple[int, ...], classes: int, output: str = "logits") -> Subject:
    """A model of ours with the dual architecture of its family, but for what `model` says."""
    model = {**family.of(name).dual, **model}
    config = {"model_name": name, "model": model, "input_shape": shape, "num_classes": classes, "norms": {}}
    return of_config(config, output=output)


def vit(output: str = "logits") -> Subject:
    return ours("vit", {"width": 32, "depth": 4, "num_heads": 4, "patch_size": (8, 8)}, (32, 32, 3), 10, output)


def mamba(**options: Any) -> Subject:
    return ours("mamba", {"d_model": 32, "n_layers": 4, **options}, (32,), 64)


def with_delta_of_one(subject: Subject) -> Subject:
    """A Mamba with Delta at 1 in place of .001 to .1."""
    bias = math.log(math.e - 1)  # softplus of it is 1
    params = jax.tree_util.tree_map_with_path(
        lambda path, x: jnp.full_like(x, bias) if jax.tree_util.keystr(path).endswith("['dt_proj']['bias']") else x,
        subject.params,
    )
    return subject._replace(params=params)


def resnet(width: int = 16, blocks: int = 3, pooled: bool = True) -> Subject:
    """Residual 3 x 3 convolutions without normalization, mean over pixels, a head; or the head on each pixel."""
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
        return (jnp.mean(x, axis=(1, 2)) if pooled else x) @ params["head"]["kernel"]

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
    "ViT": vit,
    "GPT": lambda: ours("gpt", {"width": 32, "depth": 4, "num_heads": 4}, (32,), 64),
    "Mamba": mamba,
    "ResNet": resnet,
    "nnx MLP": nnx_mlp,
    "ViT, each token": lambda: vit("logits_2d"),
    "ResNet, each pixel": lambda: resnet(pooled=False),
    "Mamba, Delta 1": lambda: with_delta_of_one(mamba()),
    "Mamba, mixer_out 1": lambda: mamba(mixer_out=1.0),
}
"""Five models, then variants of three that each undo one suspected cause of what is measured falling short."""
ROUNDS = 10  # of ascent
Ratios = dict[str, dict[str, float]]  # {random, gradient, worst: {row key: measured / declared}}


def ratios(subject: Subject, loss: measured.Loss | None = None) -> Ratios:
    """The largest over tokens and batch, along each kind of step: `random`, `gradient` with a loss, `worst`."""
    apply, params, batch, table = subject
    found = measured.measure(apply, params, batch, key=KEY, atoms=table, loss=loss, directions=2)
    kinds = ("random", "gradient") if loss else ("random",)
    changes = {along: found.amplification(along) for along in kinds}
    changes["worst"] = worst(subject)
    for each in [changes[along] for along in kinds]:  # ascent from one random step may miss what another has found
        changes["worst"] = {key: np.maximum(value, each[key]) for key, value in changes["worst"].items()}
    return {along: _over_declared(values, table) for along, values in changes.items()}


def worst(subject: Subject) -> dict[str, np.ndarray]:
    """{row key: the furthest that a unit step of this atom alone is found to move the output}.

    A change is convex in the step, so the dual of its gradient never moves the output less: ascent without a rate.
    """
    apply, params, batch, table = subject

    @jax.jit
    def climbed(params: Any, batch: Any, uphill: Any) -> tuple[Any, jax.Array]:
        def total(steps: Any) -> tuple[jax.Array, jax.Array]:
            changes_A = measured.changes(apply, params, batch, steps, table, at_once=4)[:, 0]
            return jnp.sum(changes_A), changes_A

        uphill, changes_A = jax.grad(total, has_aux=True)(measured.unit_steps(table, uphill))
        return jax.tree.map(jnp.nan_to_num, uphill), changes_A  # a dead atom's change has no gradient at 0

    uphill, changes_A = climbed(params, batch, _gaussian(params))
    for _ in range(ROUNDS):
        uphill, changes_A = climbed(params, batch, uphill)
    return dict(zip([row.key for row in table.rows], np.asarray(changes_A), strict=True))


def _gaussian(params: Any) -> Any:
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: jnp.asarray(rng.standard_normal(x.shape), x.dtype), params)


def _over_declared(amplification: Mapping[str, np.ndarray], table: bvd.TargetNormTable) -> dict[str, float]:
    """{row key: measured / declared}, of stacked layers the largest; without rows that declare 0."""
    declared = {row.key: np.asarray(row.sensitivity) for row in table.rows if np.all(np.asarray(row.sensitivity) > 0)}
    return {key: float(np.max(np.asarray(amplification[key]) / value)) for key, value in declared.items()}


def directions(text: str) -> dict[str, Ratios]:
    """{model: ratios}: the race's models, on their data, at initialization."""
    return {name: of_trial(task(text).config) for name, task in measured_race.TASKS.items()}


def widths() -> dict[str, Ratios]:
    """{width: ratios} of the ViT whose learning rate a measured table does not carry over width."""
    return {
        str(width): of_trial(measured_race.transfer_config("width", width)) for width in measured_race.SIZES["width"]
    }


def trained_widths(at: int = 100) -> dict[str, Ratios]:
    """The same after some steps with the declared table at about its best rate, at two widths; the largest alone."""
    found = {}
    for width in (16, 64):
        config = grid.replace(measured_race.transfer_config("width", width), {"lr": 0.25, "seed": 1})
        table = measuring.measured_table(config, at=at, floor=1e-12)
        amplification = {row.key: np.asarray(row.sensitivity) for row in table.rows}
        found[str(width)] = {"largest": _over_declared(amplification, norm_trees.table_for(config))}
    return found


def of_trial(config: grid.Config) -> Ratios:
    """Ratios on the first examples that a config trains on."""
    model, table = models.of(config), norm_trees.build(config)
    apply, loss, (batch,) = target_norms.Subject.of(config, model, dataset.training(config))
    params = jax.jit(lambda: init.params(config, model, 0))()
    return ratios(Subject(apply, params, batch, table), loss)


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
    first = measured.measure(apply, params, batch, key=KEY, atoms=table, directions=1, at_once=1)
    seconds, busy = time.monotonic() - started, time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    atoms = len(first.table.rows)
    return {"atoms": atoms, "examples": 1, "seconds": seconds, "cpu_seconds": busy, "peak_GiB": peak}


def _summary(values: Mapping[str, float]) -> str:
    order = sorted(values, key=lambda key: values[key])
    near = sum(1 / 4 <= value <= 4 for value in values.values())
    ends = " to ".join(f"{values[key]:.3g} ({key})" for key in (order[0], order[-1]))
    return f"{near} of {len(values)} atoms within a factor of 4, median {np.median(list(values.values())):.3g}, {ends}"


def _by_kind(values: Mapping[str, float]) -> str:
    """Medians over layers, of atoms by what their paths end with."""
    kinds: dict[str, list[float]] = {}
    for key, value in values.items():
        kinds.setdefault("/".join(key.split("/")[-2:]), []).append(value)
    return ", ".join(f"{kind} {np.median(each):.2g}" for kind, each in kinds.items())


def report(found: Mapping[str, Ratios]) -> None:
    for name, kinds in found.items():
        for along, values in kinds.items():
            print(f"{name}, {along}: {_summary(values)}\n    {_by_kind(values)}", flush=True)


def draw(found: Mapping[str, Ratios]) -> None:
    """A column a model; the worst steps to the right of the random ones."""
    figure, axes = plt.subplots(figsize=(11, 4), layout="constrained")
    for place, kinds in enumerate(found.values()):
        for offset, color, along in ((-0.2, "C0", "random"), (0.2, "C1", "worst")):
            spread = np.linspace(-0.14, 0.14, len(kinds[along]))
            label = f"{along} unit steps" if place == 0 else None
            axes.plot(place + offset + spread, list(kinds[along].values()), ".", color=color, markersize=4, label=label)
    axes.axhline(1, color="gray", linewidth=1)
    axes.axhspan(0.25, 4, color="gray", alpha=0.12)
    axes.set(yscale="log", ylim=(1e-6, 10), ylabel="measured / declared")
    axes.set_xticks(range(len(found)), [name.replace(", ", ",\n") for name in found])
    axes.set_title("change of the output per unit step of an atom, at initialization")
    axes.legend(loc="lower right")
    figure.savefig(FIGURE, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=SUBJECTS, help="measure these anew, keep the others")
    parser.add_argument("--cost", help="a recipe to measure the cost of")
    parser.add_argument("--steps", action="store_true", help="how far atoms move the output in real steps")
    parser.add_argument("--directions", action="store_true", help="the models and data of the race")
    parser.add_argument("--widths", action="store_true", help="the transfer study's ViT at each width")
    parser.add_argument("--trained-widths", action="store_true", help="the same after 100 steps")
    parser.add_argument("--text", default="", help="of the race's Mamba; Python's own help texts without it")
    given = parser.parse_args()
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if given.cost:
        known.setdefault("cost", {})[given.cost] = cost(given.cost)
        print(known["cost"][given.cost])
    elif given.steps:
        known["steps"] = steps()
        for name, values in known["steps"].items():
            print(f"{name}: {_summary(values)}\n    {_by_kind(values)}")
    elif given.directions or given.widths:
        name = "directions" if given.directions else "widths"
        known[name] = directions(given.text) if given.directions else widths()
        report(known[name])
    elif given.trained_widths:
        known["trained_widths"] = trained_widths()
        report(known["trained_widths"])
    else:
        kept = known.get("ratios", {}) if given.only else {}
        found = {name: ratios(SUBJECTS[name]()) for name in given.only or SUBJECTS}
        known["ratios"] = {name: {**kept, **found}[name] for name in SUBJECTS if name in {**kept, **found}}
        report(found)
        draw(known["ratios"])
    files.write_json(RESULTS, known)


if __name__ == "__main__":
    main()
