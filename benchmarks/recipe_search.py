"""Searches the dualized recipe coordinate by coordinate on the digits track's tuning split; keeps every step.

Command: python benchmarks/recipe_search.py OUT [--start balanced] [--trials 26]

Starts: `balanced` (every entry of every matrix moves alike, docs/track.md) at width 64, as masses; `seen` (all matrices
alike in the algebra, but those with fan_out < fan_in corrected by the share of a random input that they see);
`coherence` (steps in proportion to what a real batch says of the output changes that they make); `recipe` (what the
walk from `balanced` found), on a longer budget, with the switches of the architecture and a radius; `depths` (the same
with the masses alone, judged at depths 2 and 8 together: the geometric mean of their held-out losses at one learning
rate). None of the budgets and seeds is the track's own.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from rich.console import Console
from rich.table import Table

from big_vision_dual import models
from big_vision_dual.core import trees
from big_vision_dual.core.measured import unit_steps
from big_vision_dual.core.tables import TargetNormTable
from big_vision_dual.lab.studies import dataset, grid, settings
from big_vision_dual.lab.track import entries, race, rules
from big_vision_dual.lab.track.space import Axis, Found, Space, among, octaves, search
from big_vision_dual.models import arch, init, norm_trees
from big_vision_dual.train import losses
from big_vision_dual.train.data import arrays
from big_vision_dual.train.progress import Work

MASSES = {
    "Bias": 0.125, "Scale": 0.125, "(query|key)/": 1 / 3, "value/": 1 / 3, "Dense_1/kernel": 4.0,
    "embedding/kernel": 1.0, "head/kernel": 2.5,
}  # fmt: skip
"""Of the balanced table: target norms are (mass, sensitivity 3 for query, key, value): 1, 1, 1, out 1, up 1, down 4."""
SEEN = {"Bias": 0.125, "Scale": 0.125, "Dense_1/kernel": 2.0, "head/kernel": (64 / 10) ** 0.5}
"""A random input lies in the fan_out directions that a matrix sees with sqrt(fan_out / fan_in) of its length."""
ROLES = (
    ".*/(bias|scale)", ".*/(query|key)/kernel", ".*/value/kernel", ".*/out/kernel", ".*/Dense_0/kernel",
    ".*/Dense_1/kernel", "embedding/kernel", "head/kernel",
)  # fmt: skip
"""Regexes of whole paths: what moves with a step of its own."""
PROBE = 256  # images of the batch that `coherence` measures
LEAST = 1 / 16  # of the largest share: what a role gets that the program gives none
FLOOR = 0.1  # of the median change: what moves the output by less counts as if it moved it by so much


def _entry(base: entries.Config, fields: entries.Config, space: Space) -> entries.Entry:
    """A dualized entry with Nesterov momentum .9, a warm-up of a tenth and a head that does not start at 0."""
    always = {
        "optax": {"momentum": 0.9, "nesterov": True}, "schedule": entries.WARMUP, "model.head_zeroinit": False,
    }  # fmt: skip
    return dataclasses.replace(entries.dualized(base, -1.4, 0.9, {**always, **fields}), space=space)


def _norms(masses: dict[str, float]) -> entries.Config:
    return {"norms": {"conventions": "well_normed", "masses": dict(masses), "blocks_mass": 4.0}}


def _mass_axes(masses: dict[str, float]) -> Space:
    """An axis a role; biases and scales share one."""
    role = {f"norms.masses.{name}": Axis(value) for name, value in masses.items() if name not in ("Bias", "Scale")}
    return {"norms.masses.Bias": Axis(masses["Bias"], also={"norms.masses.Scale": 1}), **role}


_STEP: Space = {"lr": octaves(-1.4), "optax.momentum": among(0.9, 0.8, 0.85, 0.9, 0.95)}


def balanced(base: entries.Config) -> entries.Entry:
    """The balanced table, and the coordinates."""
    space = {
        "lr": _STEP["lr"], **_mass_axes(MASSES), "norms.blocks_mass": Axis(4.0),
        "optax.momentum": _STEP["optax.momentum"], "model.head_zeroinit": among(False, False, True),
        "schedule.warmup_percent": among(0.1, 0.0, 0.05, 0.1, 0.2),
    }  # fmt: skip
    return _entry(base, _norms(MASSES), space)


def seen(base: entries.Config) -> entries.Entry:
    """Matrices of one mass, corrected by the share of a random input that they see; the step is tuned."""
    return _entry(base, _norms(SEEN), _STEP)


def coherence(base: entries.Config) -> entries.Entry:
    """Roles share the change of the output as a real batch says (`_coherent`); the step is tuned."""
    start = _entry(base, _norms(MASSES), _STEP)
    return dataclasses.replace(start, config={**start.config, "target_norm_scale": _coherent(start.config)})


def _coherent(config: entries.Config) -> list[list[object]]:
    """[regex, factor on the target norms of `config`] a role, from a non-negative quadratic program on a real batch.

    Its unknowns m are how far each role moves the output, and C the cosines between the roles' output changes: the
    least of m'Cm/2 - sum(m), m >= 0, gives one share to roles that push the same directions, not one each.
    """
    table = norm_trees.table_for(config)
    role_of = trees.first_match([(role, role) for role in ROLES], [row.path for row in table.rows], "ROLES")
    changes = _changes(config, table, role_of)
    lengths = np.linalg.norm(changes, axis=0)
    root = np.linalg.cholesky((changes / lengths).T @ (changes / lengths) + 1e-6 * np.eye(len(ROLES)))
    shares, _ = scipy.optimize.nnls(root.T, np.linalg.solve(root, np.ones(len(ROLES))))
    steps = np.maximum(shares, LEAST * shares.max()) / np.maximum(lengths, FLOOR * np.median(lengths))
    given = [np.mean([np.log(row.target_norm) for row in table.rows if role_of[row.path] == role]) for role in ROLES]
    logs = np.log(steps) - given
    return [[role, float(np.exp(log))] for role, log in zip(ROLES, logs - logs.mean(), strict=True)]


def _changes(config: entries.Config, table: TargetNormTable, role_of: Mapping[str, str]) -> np.ndarray:
    """(logits of a batch, roles): their change when each role takes unit steps down its gradient."""
    split = dataset.load({**config["input"]["data"], "split": rules.load("digits").train}, config)
    batch = arrays.to_model(jnp.asarray(split.images[:PROBE]), jnp.asarray(split.labels[:PROBE]), config["num_classes"])
    model = models.of(config)
    params = init.params(config, model, 1)
    steps = unit_steps(table, jax.grad(losses.training(config, model))(params, batch, jax.random.key(0)))

    @jax.jit
    def change(params: Any, steps: Any, index: int) -> jax.Array:
        def part(name: str, step: jax.Array) -> jax.Array:
            return jnp.where(index == ROLES.index(role_of[name]), -step, 0)

        def logits(params: Any) -> jax.Array:
            return model.apply({"params": params}, losses.inputs(batch), train=False)[0]

        return jax.jvp(logits, (params,), (trees.map_with_path(part, steps),))[1]

    return np.stack([np.ravel(change(params, steps, index)) for index in range(len(ROLES))], axis=1)


def _with_radius() -> entries.Config:
    """What `balanced` found, with a radius in place of decay."""
    return {**_norms(settings.BALANCED_MASSES), "weight_constraint": entries.RADIUS, "wd": 0.0}


def recipe(base: entries.Config) -> entries.Entry:
    """What `balanced` found, with the switches of the dual architecture and a radius in place of decay."""
    fields = {**_with_radius(), "model.scaling": dataclasses.asdict(arch.DUAL)}
    space = {
        "lr": octaves(-1.9), "weight_constraint.radius": Axis(100.0), **_mass_axes(settings.BALANCED_MASSES),
        "norms.blocks_mass": Axis(4.0), "optax.momentum": _STEP["optax.momentum"],
        "model.scaling.attention_out": among(1 / 3, 1 / 3, 1.0),
        "model.scaling.attention_logits": among("inverse", "inverse", "rsqrt"),
        "schedule.warmup_percent": among(0.1, 0.05, 0.1, 0.2),
    }  # fmt: skip
    return _entry(base, fields, space)


def depths(base: entries.Config) -> entries.Entry:
    """What `balanced` found, with a radius in place of decay; learning rate and masses are the coordinates."""
    masses = _mass_axes(settings.BALANCED_MASSES)
    return _entry(base, _with_radius(), {"lr": _STEP["lr"], **masses, "norms.blocks_mass": Axis(4.0)})


STARTS: dict[str, tuple[Callable[[entries.Config], entries.Entry], rules.Budget]] = {
    "balanced": (balanced, rules.Budget(120, 26)),
    "seen": (seen, rules.Budget(120, 8)),
    "coherence": (coherence, rules.Budget(120, 8)),
    "recipe": (recipe, rules.Budget(200, 30)),
    "depths": (depths, rules.Budget(200, 26)),
}
"""{start: (entry, steps of a run and trials)}."""
DEPTHS = {"depths": (2, 8)}
"""{start: the depths that it is judged at}; the track's own where it is not named."""
BUDGET = "search"


def plan(start: str, depth: int | None = None) -> tuple[rules.Track, dict[str, entries.Entry]]:
    """The digits track with a budget and seeds of its own."""
    make, budget = STARTS[start]
    digits = rules.load("digits")
    base = digits.base if depth is None else grid.replace(digits.base, {"model.depth": depth})
    track = dataclasses.replace(
        digits, name="digits-recipe", base=base, budgets={BUDGET: budget}, tuning_seeds=(1, 2), final_seeds=()
    )
    return track, {start: make(base)}


def walk(start: str, folder: pathlib.Path, trials: int) -> tuple[Space, Found]:
    """Runs what the results lack. A position's loss: the geometric mean over the depths."""
    folders = {depth: folder / f"depth_{depth}" for depth in DEPTHS.get(start, ())} or {None: folder}
    races = [race.Race(*plan(start, depth), where) for depth, where in folders.items()]
    track = races[0].track
    planned = trials * len(races) * len(track.tuning_seeds) * track.budgets[BUDGET].steps
    with Work("steps", planned, sum(r.done for r in races)) as work:
        found = search(
            races[0].entries[start].space,
            lambda position: statistics.geometric_mean(r.held_out(start, BUDGET, work, position) for r in races),
            trials,
        )
    return races[0].entries[start].space, found


def main() -> None:
    """Runs what the results lack, and prints each trial in the order of the search."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path, help="folder; each start has one of its own in it")
    parser.add_argument("--start", choices=STARTS, default="balanced")
    parser.add_argument("--trials", type=int, help="in place of the start's own number")
    args = parser.parse_args()
    space, found = walk(args.start, args.out / args.start, args.trials or STARTS[args.start][1].trials)
    view = Table("trial", "held-out loss", "what differs from the start")
    for number, (position, loss) in enumerate(found.losses.items(), 1):
        moved = [f"{name}={axis.value(x):.4g}" if not axis.choices else f"{name}={axis.value(x)}"
                 for (name, axis), x in zip(space.items(), position, strict=True) if x]  # fmt: skip
        best = " (best)" if position == found.best else ""
        view.add_row(f"{number}{best}", f"{loss:.4f}", ", ".join(moved))
    Console().print(view)


if __name__ == "__main__":
    main()
