"""Coordinate check (Yang et al., arXiv 2203.03466, appendix D.1): do activations change by the same amount at any size?

The first steps of training at several widths or depths; activations on a fixed batch are compared with those at
initialization. In a parametrization that transfers, their change neither grows nor vanishes with size.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from big_vision_dual.lab.studies import fit, grid, settings
from big_vision_dual.lab.studies.lr_transfer import sized
from big_vision_dual.lab.studies.program import Numbers, Program, stacked
from big_vision_dual.lab.studies.results import Record, Results
from big_vision_dual.models import family
from big_vision_dual.train import losses
from big_vision_dual.train.progress import Work

# What can be measured of an activation, and the step from which its slope counts. A head that starts at 0 keeps all
# else still in the first step.
STATISTICS = {"change": 3, "rms": 0, "mean_abs": 0}
HIDDEN, LOGITS = 0.2, 0.4  # thresholds on abs(slope)


@dataclasses.dataclass(frozen=True)
class Slope:
    """How one statistic of a module's activation depends on size: statistic ~ size ** slope.

    steps: the log-log slope after each step that counts (`STATISTICS`), with its 95 % interval over sizes and seeds.
    """

    module: str
    threshold: float
    steps: dict[int, fit.Interval]

    @property
    def worst(self) -> fit.Interval:
        """The slope of the step where it is steepest."""
        return max(self.steps.values(), key=lambda interval: abs(interval.value))

    @property
    def flat(self) -> bool:
        return bool(np.isfinite(self.worst.value)) and abs(self.worst.value) <= self.threshold


def trials(
    base: Mapping[str, Any], setting: str, axis: str, sizes: Sequence[int], lr: float, seeds: int, steps: int
) -> list[grid.Trial]:
    """Constant learning rate, no warm-up; by size, all seeds of a size in a row."""
    made = []
    for size in sizes:
        config = settings.apply(setting, sized(base, axis, size))
        config = grid.replace(config, {"schedule": {}, "lr": lr, "total_steps": steps, "study": "coord_check"})
        made += grid.product(config, {"seed": range(seeds)}, point={"setting": setting, axis: size})
    return made


def run(trials: Sequence[grid.Trial], results: Results) -> list[Record]:
    """The records of `trials`; the seeds of one size are one program."""
    missing = [group for group in grid.by_program(trials) if any(trial not in results for trial in group)]
    with Work("sizes", len(missing)) as work:
        for group in missing:
            for trial, measured in zip(group, _measure(group), strict=True):
                if trial not in results:
                    results.add(trial, {"activations": measured})
            work.advance()
    return results.of(trials)


def activations(of_model: family.Family, model: Any, params: Any, inputs: jax.Array) -> dict[str, jax.Array]:
    """{name: array}, what the family says is to be recorded. inputs: images or tokens."""
    (_, out), sown = model.apply({"params": params}, inputs, train=False, mutable=["intermediates"])
    return of_model.activations(out, sown.get("intermediates", {}))


def _measure(group: Sequence[grid.Trial]) -> list[dict[str, dict[str, list[float]]]]:
    """For each trial {module: {statistic: values after 0, 1, ... steps}}."""
    program = Program.of(group[0].config)
    numbers = [program.numbers_of(trial.config) for trial in group]
    trajectory = _trajectory(program)

    def one_after_another(given: Numbers, data: Mapping[str, Any]) -> Any:
        return jax.lax.map(lambda one: trajectory(one, data), given)  # memory does not grow with the seeds

    measured = jax.jit(one_after_another)(stacked(numbers), program.data())
    whole = jax.tree.map(np.asarray, measured)
    return [_of_trial(whole, i) for i in range(len(group))]


def _of_trial(measured: Any, index: int) -> dict[str, dict[str, list[float]]]:
    return {name: {kind: values[index].tolist() for kind, values in kinds.items()} for name, kinds in measured.items()}


def _trajectory(program: Program) -> Any:
    record = functools.partial(activations, family.of(program.config["model_name"]), program.model)

    def trajectory(given: Numbers, data: Mapping[str, Any]) -> dict[str, dict[str, jax.Array]]:
        state = program.init(given)
        raw = {name: part[0][: program.source.batch_size] for name, part in data["validation"].items()}
        probe = losses.inputs(program.to_model(raw))
        first = record(state.params, probe)

        def step(state: Any, _: None) -> tuple[Any, dict[str, dict[str, jax.Array]]]:
            state = program.update(state, given, data).state
            return state, _statistics(record(state.params, probe), first)

        _, later = jax.lax.scan(step, state, length=program.total_steps)
        return jax.tree.map(lambda x, y: jnp.concatenate([x[None], y]), _statistics(first, first), later)

    return trajectory


def _statistics(now: Mapping[str, jax.Array], first: Mapping[str, jax.Array]) -> dict[str, dict[str, jax.Array]]:
    def rms(x: jax.Array) -> jax.Array:
        return jnp.sqrt(jnp.mean(jnp.square(x)))

    return {
        name: {"mean_abs": jnp.mean(jnp.abs(x)), "rms": rms(x), "change": rms(x - first[name])}
        for name, x in now.items()
    }


def slopes(
    records: Sequence[Record],
    axis: str,
    statistic: str = "change",
    *,
    hidden: float = HIDDEN,
    logits: float = LOGITS,
) -> list[Slope]:
    """The slopes of all modules of one setting; a module whose name ends in 'logits' has the threshold `logits`.

    statistic: 'change', the RMS change since initialization; or the activation's own size, 'rms' or 'mean_abs'.
    Modules that not every size has (blocks, when depth varies) are left out.
    """
    sizes = np.log2([record["point"][axis] for record in records])
    named = [record["result"]["activations"] for record in records]
    found = []
    for module in (name for name in named[0] if all(name in each for each in named)):
        values_NxT = np.array([each[module][statistic] for each in named], float)  # null, a diverged run, becomes nan
        steps = {
            t: fit.slope_interval(sizes, np.log2(np.maximum(values_NxT[:, t], np.finfo(float).tiny)))
            for t in range(STATISTICS[statistic], values_NxT.shape[1])
        }
        found.append(Slope(module, logits if module.endswith("logits") else hidden, steps))
    return found


def means(records: Sequence[Record], axis: str, modules: Sequence[str], statistic: str) -> dict[str, np.ndarray]:
    """{module: the statistic, sizes by steps}, the mean over seeds."""
    sizes = sorted({record["point"][axis] for record in records})

    def mean(module: str, size: int) -> np.ndarray:
        of_size = [r["result"]["activations"][module][statistic] for r in records if r["point"][axis] == size]
        return np.mean(np.array(of_size, float), axis=0)

    return {module: np.stack([mean(module, size) for size in sizes]) for module in modules}
