"""How much a model amplifies small perturbations: of all that follows its first layer, and of each block."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from big_vision_dual.core.tables import Row, TargetNormTable
from big_vision_dual.models.family import Blocks

_POWER_STEPS = 12
Rows = dict[str, tuple[Row, ...]]


@dataclasses.dataclass(frozen=True)
class Amplification:
    """One measurement beside what the table declares."""

    name: str
    declared: float
    measured: float


def measure(
    model: Any, blocks: Blocks, table: TargetNormTable, params: Any, inputs: jax.Array
) -> Iterator[Amplification]:
    """From the first layer to the logits, and of each block but the last.

    A block's declared sensitivity is the ratio of what is downstream of it and of the block after it. blocks: of the
    model with these parameters and inputs, as its family describes them.
    """
    rows = table.by_path()
    path, stem = blocks.stem
    whole = largest(lambda stem, params: _logits_from_stem(model, params, inputs, path, stem))
    yield Amplification("stem to logits", _sensitivity(rows, path), float(whole(stem, params)))
    of_block = largest(blocks.apply)
    for i, (here, following) in enumerate(itertools.pairwise(blocks.first)):
        declared = _sensitivity(rows, here) / _sensitivity(rows, following)
        yield Amplification(f"block {i}", declared, float(of_block(blocks.inputs[i], blocks.params[i])))


def _logits_from_stem(model: Any, params: Any, inputs: jax.Array, path: str, stem: jax.Array) -> jax.Array:
    """The logits if the module that owns the leaf `path` had given `stem`."""
    owner = tuple(path.split("/")[:-1])

    def intercept(next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
        given = context.module.path == owner and context.method_name == "__call__"
        return stem if given else next_fun(*args, **kwargs)

    with nn.intercept_methods(intercept):
        return model.apply({"params": params}, inputs, train=False)[0]


def largest(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """(x, *args) -> largest singular value of the Jacobian of `function` at x, the largest over the batch.

    By power iteration; each example of the batch must be independent of the others. Norms are RMS over tokens and
    features together: in them, too, the mean over tokens has s = 1.
    """

    @jax.jit
    def measured(x: jax.Array, *args: Any) -> jax.Array:
        _, forward = jax.linearize(lambda x: function(x, *args), x)
        backward = jax.linear_transpose(forward, x)

        def sharpen(_: int, delta: jax.Array) -> jax.Array:
            return _unit(backward(forward(delta))[0])

        start = _unit(jax.random.normal(jax.random.key(0), x.shape))
        return jnp.max(size(forward(jax.lax.fori_loop(0, _POWER_STEPS, sharpen, start))))

    return measured


def size(x: jax.Array) -> jax.Array:
    """RMS of each example's part, (B,)."""
    return jnp.sqrt(jnp.mean(jnp.square(x.reshape(len(x), -1)), axis=-1))


def _unit(x: jax.Array) -> jax.Array:
    return x / size(x).reshape(-1, *[1] * (x.ndim - 1))


def _sensitivity(rows: Rows, path: str) -> float:
    """Of all that follows the weights at `path`, in a table of an unrolled model."""
    return number(rows[path][0].sensitivity)


def number(value: float | tuple[float, ...]) -> float:
    """A row's value, in a table of an unrolled model."""
    assert isinstance(value, float | int), "an unrolled model has one atom a row"
    return float(value)
