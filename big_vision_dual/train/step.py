"""The training step: one jitted, donated function over a device mesh.

The trainer, the preflight and the benchmarks all call `make`; with `StepFns.state` and `StepFns.batch` it
can be lowered and compiled for devices that are not there:
`fns.train.lower(fns.state, fns.batch, fns.measured).compile()`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from big_vision_dual.core.tables.schema import TargetNormTable
from big_vision_dual.models import init as models_init
from big_vision_dual.train import atom_norms, schema, sharding
from big_vision_dual.train import update as update_lib
from big_vision_dual.train.update import Batch, TrainState, Update

PyTree = Any


@dataclasses.dataclass(frozen=True)
class StepFns:
    """The functions of a run and the shapes they take.

    init: () -> TrainState, allocated in its shards.
    train: (state, batch, measured) -> (state, outputs); donates state. batch: 'image' (B, H, W, C) float32
      and 'labels' (B, classes) float32, or of a language model 'tokens' (B, L + 1) int32.
      measured: bool, whether outputs['measured'] and ['atoms'] are computed or zeros.
      outputs: 'loss'; 'finite_params' and 'finite_grads', a flag per parameter leaf (after the update);
      'measured', {metric name: scalar}; 'atoms', {metric name: {atom: norms}}, see `atom_norms.measure`.
    state, batch, measured: the arguments of `train` as ShapeDtypeStructs with shardings.
    """

    init: Callable[[], TrainState]
    train: Any
    state: TrainState
    batch: Batch
    measured: jax.ShapeDtypeStruct
    mesh: Mesh


def make(
    config: Any,
    model: Any,
    tx: optax.GradientTransformation,
    mesh: Mesh,
    *,
    table: TargetNormTable | None = None,
) -> StepFns:
    """The step of `config` on `mesh`. Allocates nothing.

    config: reads seed, num_classes, input_shape (H, W, C) or (L,) of tokens, input.{batch_size,accum_freq}, loss,
      label_smoothing, mixup, ema, sharding_strategy, sharding_rules, init_head_bias, mup, compile_effort.
    table: measures every atom group in its own norm where given.
    Raises ValueError for a batch size that devices and micro-batches do not divide.
    """
    _check_batch_size(config, mesh)
    replicated = NamedSharding(mesh, P())
    of_batch = sharding.batch_sharding(mesh, config.get("sharding_rules") or ())
    init = _within(mesh, functools.partial(update_lib.init, config, model, tx))
    shapes = jax.eval_shape(init)
    of_state = sharding.infer(shapes, mesh, _strategy(config))
    return StepFns(
        init=jax.jit(init, out_shardings=of_state),
        train=jax.jit(
            _within(mesh, _make_train(config, model, tx, table)),
            in_shardings=(of_state, of_batch, replicated),
            out_shardings=(of_state, replicated),
            donate_argnums=0,
            compiler_options=_compiler_options(config, mesh),
        ),
        state=jax.tree.map(_with_sharding, shapes, of_state),
        batch=_abstract_batch(config, of_batch),
        measured=jax.ShapeDtypeStruct((), jnp.bool, sharding=replicated),
        mesh=mesh,
    )


def _within(mesh: Mesh, function: Callable) -> Callable:
    """`function` traced with `mesh` as its context, which `scale_by_dualize(shard_axis=...)` looks up."""

    @functools.wraps(function)
    def traced(*arguments: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*arguments)

    return traced


def _check_batch_size(config: Any, mesh: Mesh) -> None:
    batch_size, accum = config.input.batch_size, schema.value(config, "input.accum_freq")
    if batch_size % (mesh.size * accum):
        raise ValueError(
            f"config.input.batch_size={batch_size} does not divide among {mesh.size} devices and "
            f"config.input.accum_freq={accum}; give a multiple of {mesh.size * accum}."
        )


def _strategy(config: Any) -> list[tuple[str, str]]:
    """The config's strategy, after a rule for the momentum that `scale_by_dualize(shard_axis=...)` shards itself."""
    axis = (config.get("optax") or {}).get("shard_axis")
    stacks = [("opt_state/.*/momentum/.*", f"stack(axis={axis!r})")] if axis else []
    return [*stacks, *schema.value(config, "sharding_strategy")]


def _compiler_options(config: Any, mesh: Mesh) -> dict[str, Any]:
    """How long XLA may look for a faster step. For a TPU v3 it finds none: the same step by the compiler's estimate, in
    twice the time. For newer ones its estimates do not tell (docs/performance.md, "The first step")."""
    effort = config.get("compile_effort")
    if effort is None and mesh.devices.flat[0].device_kind == "TPU v3":
        effort = -1.0
    return {} if effort is None else {"exec_time_optimization_effort": effort}


def _with_sharding(leaf: Any, its_sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=its_sharding)


def _abstract_batch(config: Any, of_batch: NamedSharding) -> Batch:
    size = config.input.batch_size
    if models_init.of_tokens(config):
        length = config.input_shape[0] + 1
        return {"tokens": jax.ShapeDtypeStruct((size, length), jnp.int32, sharding=of_batch)}
    shapes = {"image": (size, *config.input_shape), "labels": (size, config.num_classes)}
    dtypes = {"image": models_init.input_dtype(config), "labels": jnp.float32}
    return {key: jax.ShapeDtypeStruct(shape, dtypes[key], sharding=of_batch) for key, shape in shapes.items()}


def _make_train(config: Any, model: Any, tx: Any, table: TargetNormTable | None) -> Callable:
    one = update_lib.update(config, model, tx)

    def train(state: TrainState, batch: Batch, measured: jax.Array) -> tuple[TrainState, dict[str, Any]]:
        done = one(state, batch)
        norms, atoms = _when(measured, lambda: _measure(done, table))
        outputs = {
            "loss": done.loss,
            "finite_params": _finite(done.state.params),
            "finite_grads": _finite(done.gradient),
            "measured": norms,
            "atoms": atoms,
        }
        return done.state, outputs

    return train


def _finite(tree: PyTree) -> jax.Array:
    return jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)])


def _when(condition: jax.Array, compute: Callable[[], PyTree]) -> PyTree:
    """compute() where `condition` holds, else zeros; only what is chosen is executed."""
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(compute))
    return jax.lax.cond(condition, compute, lambda: zeros)


def _measure(
    done: Update, table: TargetNormTable | None
) -> tuple[dict[str, jax.Array], dict[str, dict[str, jax.Array]]]:
    """(metrics, norms of single atoms: none without a table)."""
    norms = {
        "l2_params": optax.tree.norm(done.state.params),
        "l2_grads": optax.tree.norm(done.gradient),
        "l2_updates": optax.tree.norm(done.step),
    }
    measure = functools.partial(atom_norms.measure, done.state.params, done.gradient, done.step)
    means, of_atoms = ({}, {}) if table is None else measure(table)
    return norms | means, of_atoms
