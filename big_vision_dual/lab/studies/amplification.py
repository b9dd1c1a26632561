"""How much a model amplifies small perturbations: of all that follows its first layer, and of each block."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from big_vision_dual.core.tables import Row, TargetNormTable
from big_vision_dual.models import ssm, transformer, vit

_POWER_STEPS = 12
Rows = dict[str, tuple[Row, ...]]


@dataclasses.dataclass(frozen=True)
class Amplification:
    """One measurement beside what the table declares."""

    name: str
    declared: float
    measured: float


@dataclasses.dataclass(frozen=True)
class _Parts:
    """A model as a first layer and blocks.

    stem: path of the first layer's weights, and its output. inputs: of each block. first: path of the first weights of
    each block. apply: (x, params of the block) -> x; params: of all blocks.
    """

    stem: tuple[str, jax.Array]
    inputs: Sequence[jax.Array]
    first: Sequence[str]
    apply: Callable[[jax.Array, Any], jax.Array]
    params: Sequence[Any]


def measure(model: Any, table: TargetNormTable, params: Any, inputs: jax.Array) -> Iterator[Amplification]:
    """From the first layer to the logits, and of each block but the last.

    A block's declared sensitivity is the ratio of what is downstream of it and of the block after it. inputs: images
    or tokens. Raises `ValueError` for a model that is no ViT and no state-space language model.
    """
    parts, rows = _parts(model, params, inputs), table.by_path()
    path, stem = parts.stem
    whole = largest(lambda stem, params: _logits_from_stem(model, params, inputs, stem))
    yield Amplification("stem to logits", _sensitivity(rows, path), float(whole(stem, params)))
    of_block = largest(parts.apply)
    for i, (here, following) in enumerate(itertools.pairwise(parts.first)):
        declared = _sensitivity(rows, here) / _sensitivity(rows, following)
        yield Amplification(f"block {i}", declared, float(of_block(parts.inputs[i], parts.params[i])))


def _parts(model: Any, params: Any, inputs: jax.Array) -> _Parts:
    if isinstance(model, vit.ViT):
        return _of_vit(model, params, inputs)
    if isinstance(model, ssm.LanguageModel):
        return _of_state_space(model, params, inputs)
    raise ValueError(
        f"an audit takes a ViT, Mamba or Mamba-2, not {type(model).__name__}; choose such a config.model_name."
    )


def _of_vit(model: Any, params: Any, images: jax.Array) -> _Parts:
    _, out = model.apply({"params": params}, images, train=False)
    spec = transformer.BlockSpec(model.mlp_dim, model.num_heads, model.scaling)
    block = transformer.EncoderBlock(spec, model.depth, train=False)
    names = [f"encoderblock_{i}" for i in range(model.depth)]
    return _Parts(
        stem=("embedding/kernel", out["stem"]),
        inputs=[out["with_posemb"], *(out["encoder"][f"block{i:02d}"]["+mlp"] for i in range(model.depth - 1))],
        first=[f"Transformer/{name}/LayerNorm_0/scale" for name in names],
        apply=lambda x, block_params: block.apply({"params": block_params}, x)[0],
        params=[params["Transformer"][name] for name in names],
    )


def _of_state_space(model: Any, params: Any, tokens: jax.Array) -> _Parts:
    _, out = model.apply({"params": params}, tokens)
    layer, count = ssm.Layer(model.spec, model.mixer_class), model.spec.n_layers
    return _Parts(
        stem=("embedding/embedding", out["embedding"]),
        inputs=[out["embedding"], *(out[f"layer{i:02d}"]["out"] for i in range(count - 1))],
        first=[f"layers_{i}/norm/scale" for i in range(count)],
        apply=lambda x, layer_params: layer.apply({"params": layer_params}, x)[0],
        params=[params[f"layers_{i}"] for i in range(count)],
    )


def _logits_from_stem(model: Any, params: Any, inputs: jax.Array, stem: jax.Array) -> jax.Array:
    """The logits if the first layer, 'embedding', had given `stem`."""

    def intercept(next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
        given = context.module.name == "embedding" and context.method_name == "__call__"
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
