"""What Mamba and Mamba-2 share: sizes, initial values, convolution, the language model around a mixer, its norm tree.

A mixer is a Flax module with the field `spec` and three methods, the last two for generation:
`__call__(u_BxLxD) -> (out_BxLxD, intermediates)`, `step(state, u_BxD) -> (state, out_BxD)`, and
`init_state(spec, batch) -> state`, a static method. Letters as in the papers (arXiv 2312.00752, 2405.21060): B batch,
L time, D d_model, E d_inner, N d_state, R dt_rank, H heads, P d_head, G groups, K taps, C channels, V vocabulary.

Norm trees: a product of k branches whose entries are each at most 1 changes by at most the sum of their changes, so its
sensitivity counts as the sum of theirs. Conventions, not bounds (docs/size.md): branches are measured in RMS, where the
gate's product can be sqrt(E) times as large; the scan is counted with gain 1 in x, B, C and Delta each, and B^T C can
be N; and A_log counts as a gain on Delta. A_log and Delta's bias set decay rates over many steps: they get a tenth of
an atom's mass. Delta is about the exponential of what softplus takes, so that is measured by the largest entry:
MaxLinear and Rate.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from big_vision_dual.core.norms import bonds
from big_vision_dual.core.norms.atoms import Atoms
from big_vision_dual.core.norms.module import Bond, Module
from big_vision_dual.core.tables.schema import TableError
from big_vision_dual.models import arch, init, scans, transformer
from big_vision_dual.models.family import Blocks, Intermediates, MupRow, Options

Acts = dict[str, Any]
DT_RANGE = (1e-3, 1e-1)
DT_FLOOR = 1e-4
BASE_STD = 0.02  # of every matrix in mamba.py, out_proj's over sqrt(2L)
SOFTPLUS = Bond.of("softplus", 1.0)
SLOW = 0.1  # share of an atom's mass


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spec:
    """What both models share.

    expand: E = expand * D. d_conv: taps of the causal convolution. scan, chunk: see `models.scans`.
    scaling: `arch.Scaling`; a stream of L residual branches reads `residual` and `init`, the rest has no meaning here.
    mup_base_width: None, or the width at which muP and the standard parametrization agree: then there are no gains
      in the norms of the residual stream, and the head's input is divided by `width_mult`. Initial standard
      deviations and multipliers are data, see `models.mup`.
    mixer_out: factor on a mixer's values before out_proj, as `attention_out` in a transformer: those in the records
      of the families give a layer a sensitivity of about 1 in the norm tree, so that of a deep model does not explode.
    dtype_mm: of the large matrix products; convolution, Delta, scan, norms and logits stay float32.
    """

    d_model: int
    n_layers: int
    expand: int = 2
    d_conv: int = 4
    scan: str = "chunked"
    chunk: int = 32
    norm_eps: float = 1e-5
    scaling: arch.Scaling = arch.STANDARD
    mup_base_width: int | None = None
    mixer_out: float = 1.0
    dtype_mm: str = "float32"

    def __post_init__(self) -> None:
        if self.scan not in scans.SCANS:
            raise ValueError(f"scan is {self.scan!r}; possible: {', '.join(map(repr, scans.SCANS))}.")
        for name in ("d_model", "n_layers", "expand", "d_conv", "chunk"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; possible: a whole number >= 1.")
        used = dataclasses.replace(arch.STANDARD, residual=self.scaling.residual, init=self.scaling.init)
        if self.scaling not in (used, dataclasses.replace(arch.DUAL, residual=used.residual, init=used.init)):
            raise ValueError(
                f"scaling is {self.scaling}, but a state-space model has no GELU and no attention; "
                "possible: 'standard', 'dual', or a dict of the switches residual and init."
            )

    @property
    def d_inner(self) -> int:
        return self.expand * self.d_model

    @property
    def width_mult(self) -> float:
        """m = D / mup_base_width, 1 without muP."""
        return self.d_model / self.mup_base_width if self.mup_base_width else 1.0


@dataclasses.dataclass(frozen=True)
class Initializers:
    """One initializer per role; A_log, D, dt_bias and gains do not depend on the kind."""

    embedding: init.Initializer
    dense: init.Initializer
    max_linear: init.Initializer
    out_proj: init.Initializer
    conv_kernel: init.Initializer
    conv_bias: init.Initializer


def initializers(spec: Spec) -> Initializers:
    """'standard': those of mamba.py; 'dual': unit modular norm, every slice of a fused projection by itself."""
    if spec.scaling.init == "dual":
        return Initializers(
            embedding=init.unit_rows,
            dense=init.scaled_orthogonal,
            max_linear=_unit_taps,
            out_proj=init.scaled_orthogonal,
            conv_kernel=_unit_taps,
            conv_bias=nn.initializers.zeros,
        )
    normal, uniform = nn.initializers.normal, _uniform(1 / math.sqrt(spec.d_conv))
    out_std = BASE_STD / math.sqrt(2 * spec.n_layers)
    return Initializers(normal(BASE_STD), normal(BASE_STD), normal(BASE_STD), normal(out_std), uniform, uniform)


def _by_slices(slices: Sequence[tuple[int, init.Initializer]]) -> init.Initializer:
    """Draws each slice (fan_in, width) of a fused kernel (fan_in, sum of widths) as a matrix of its own."""

    def draw(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        keys = jax.random.split(key, len(slices))
        parts = [draw_one(k, (shape[0], width), dtype) for k, (width, draw_one) in zip(keys, slices, strict=True)]
        return jnp.concatenate(parts, axis=1)

    return draw


def inverse_softplus_dt(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Bias b with softplus(b) log-uniform over .001 to .1, at least 1e-4 (arXiv 2312.00752, section 3.6)."""
    low, high = map(math.log, DT_RANGE)
    dt = jnp.maximum(jnp.exp(jax.random.uniform(key, shape, dtype, low, high)), DT_FLOOR)
    return dt + jnp.log(-jnp.expm1(-dt))


def _unit_taps(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Gaussian taps (K, 1, C) with sqrt(K) ||w_c|| = 1: the unit norm of DepthwiseConv, and of MaxLinear (K, C)."""
    taps = jax.random.normal(key, shape, dtype)
    return taps / (math.sqrt(shape[0]) * jnp.linalg.norm(taps, axis=0))


def _uniform(bound: float) -> init.Initializer:
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


class CausalConv(nn.Module):
    """Depthwise convolution over the past: y_t = bias + sum_k kernel[k] x_{t-K+1+k}, in float32.

    The kernel is (K, 1, C), as Flax has it for one group a channel.
    """

    spec: Spec
    channels: int

    def setup(self) -> None:
        inits = initializers(self.spec)
        self.kernel = self.param("kernel", inits.conv_kernel, (self.spec.d_conv, 1, self.channels))
        self.bias = self.param("bias", inits.conv_bias, (self.channels,))

    def __call__(self, x_BxLxC: jax.Array) -> jax.Array:
        taps, length = self.spec.d_conv, x_BxLxC.shape[1]
        padded = jnp.pad(x_BxLxC, ((0, 0), (taps - 1, 0), (0, 0)))
        return self.bias + sum(self.kernel[k, 0] * padded[:, k : k + length] for k in range(taps))

    def step(self, past_BxKxC: jax.Array, x_BxC: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(the last K inputs, the next one) -> (the last K inputs, y_BxC)."""
        past_BxKxC = jnp.concatenate([past_BxKxC[:, 1:], x_BxC[:, None]], axis=1)
        return past_BxKxC, self.bias + jnp.einsum("bkc,kc->bc", past_BxKxC, self.kernel[:, 0])


def dense(spec: Spec, features: int, kernel_init: init.Initializer) -> nn.Dense:
    """A projection without bias, in `dtype_mm`."""
    return nn.Dense(features, use_bias=False, dtype=spec.dtype_mm, kernel_init=kernel_init)


def fused(spec: Spec, slices: Mapping[str, int], max_linear: Sequence[str] = ()) -> nn.Dense:
    """Several projections of one input as one kernel; `slices` are their widths, in order.

    max_linear: those that are MaxLinear atoms.
    """
    inits = initializers(spec)
    drawn = [(width, inits.max_linear if name in max_linear else inits.dense) for name, width in slices.items()]
    return dense(spec, sum(slices.values()), _by_slices(drawn))


def split(x: jax.Array, widths: Iterable[int]) -> list[jax.Array]:
    """Cuts the last axis into consecutive parts of the given widths."""
    parts, start = [], 0
    for width in widths:
        parts.append(x[..., start : start + width])
        start += width
    return parts


class Layer(nn.Module):
    """x + mixer(RMSNorm(x)), or the convex (1 - 1/L) x + mixer(RMSNorm(x)) / L."""

    spec: Spec
    mixer_class: type[nn.Module]

    def setup(self) -> None:
        self.norm = rms_norm(self.spec)
        self.mixer: Any = self.mixer_class(self.spec)

    def __call__(self, x_BxLxD: jax.Array) -> tuple[jax.Array, Acts]:
        normed = self.norm(x_BxLxD)
        branch, acts = self.mixer(normed)
        x_BxLxD = self.add(x_BxLxD, branch)
        return x_BxLxD, {"norm": normed, **acts, "mixer": branch, "out": x_BxLxD}

    def step(self, state: Any, x_BxD: jax.Array) -> tuple[Any, jax.Array]:
        state, branch = self.mixer.step(state, self.norm(x_BxD))
        return state, self.add(x_BxD, branch)

    def add(self, x: jax.Array, branch: jax.Array) -> jax.Array:
        return transformer.residual(x, branch, self.spec.scaling.residual, self.spec.n_layers)


def rms_norm(spec: Spec) -> nn.RMSNorm:
    """A norm of the residual stream; under muP it has no gains."""
    return nn.RMSNorm(epsilon=spec.norm_eps, use_scale=spec.mup_base_width is None)


class LanguageModel(nn.Module):
    """tokens_BxL -> (logits_BxLxV in float32, intermediates); logits at t see tokens up to t.

    Leaves: embedding/embedding (V, D); layers_{i}/norm/scale; layers_{i}/mixer/...; norm_f/scale; head/kernel (D, V).
    Intermediates: embedding, layer00 .. (each: norm, the mixer's own, mixer, out), norm_f, head_input, logits.
    """

    num_classes: int
    spec: Spec
    mixer_class: type[nn.Module]

    def setup(self) -> None:
        inits = initializers(self.spec)
        self.embedding = nn.Embed(self.num_classes, self.spec.d_model, embedding_init=inits.embedding)
        self.layers = [Layer(self.spec, self.mixer_class) for _ in range(self.spec.n_layers)]
        self.norm_f = rms_norm(self.spec)
        self.head = dense(self.spec, self.num_classes, inits.dense)

    def __call__(self, tokens_BxL: jax.Array, *, train: bool = False) -> tuple[jax.Array, Acts]:
        del train  # the trainer passes it to every model; nothing here depends on it
        x = self.embedding(tokens_BxL)
        out: Acts = {"embedding": x}
        for i, layer in enumerate(self.layers):
            x, out[f"layer{i:02d}"] = layer(x)
        out["norm_f"] = self.norm_f(x)
        out["head_input"] = out["norm_f"] / self.spec.width_mult
        out["logits"] = self.head(out["head_input"]).astype(jnp.float32)
        return out["logits"], out

    def decode(self, states: list[Any], token_B: jax.Array) -> tuple[jax.Array, list[Any]]:
        """`step`, as a method for `apply`."""
        x, after = self.embedding(token_B), []
        for layer, state in zip(self.layers, states, strict=True):
            state, x = layer.step(state, x)
            after.append(state)
        return self.head(self.norm_f(x) / self.spec.width_mult).astype(jnp.float32), after

    @nn.nowrap
    def init_state(self, batch: int) -> list[Any]:
        """The state before the first token, one entry a layer."""
        return [self.mixer_class.init_state(self.spec, batch) for _ in range(self.spec.n_layers)]  # pyright: ignore

    @nn.nowrap
    def step(self, params: Any, state: list[Any], token_B: jax.Array) -> tuple[jax.Array, list[Any]]:
        """Feeds one token a sequence: (logits_BxV of the next one, state). Equal to the parallel form."""
        return self.apply({"params": params}, state, token_B, method="decode")  # pyright: ignore


def fused_tree(
    atoms: Atoms, path: str, fan_in: int, slices: Mapping[str, int], max_linear: Sequence[str] = ()
) -> dict[str, Module]:
    """One Linear atom a slice of a fused kernel (fan_in, sum of widths), MaxLinear for those in `max_linear`."""
    parts, start = {}, 0
    for name, width in slices.items():
        atom = atoms.max_linear if name in max_linear else atoms.linear
        parts[name] = atom(f"{path}/kernel", (fan_in,), (width,), part=(1, start, start + width))
        start += width
    return parts


def conv_tree(atoms: Atoms, path: str, taps: int, channels: int) -> Module:
    """Depthwise convolution with bias, and its SiLU."""
    return bonds.SILU @ (
        atoms.depthwise_conv(f"{path}/kernel", taps, channels) + atoms.bias(f"{path}/bias", (channels,))
    )


def slow(atom: Module) -> Module:
    return atom.tare(SLOW * atom.mass)


def rms_norm_tree(atoms: Atoms, spec: Spec, path: str) -> Module:
    """A norm of the residual stream, without gain under muP."""
    if spec.mup_base_width is not None:
        return bonds.NORMALIZE
    return atoms.scale(f"{path}/scale", (spec.d_model,)) @ bonds.NORMALIZE


def layer_tree(atoms: Atoms, spec: Spec, path: str, mixer: Module) -> Module:
    branch = mixer @ rms_norm_tree(atoms, spec, f"{path}/norm")
    return transformer.residual_tree(spec.scaling, branch, spec.n_layers)


def language_model_tree(atoms: Atoms, spec: Spec, mixer: Module, num_classes: int, blocks_mass: float | None) -> Module:
    """Embedding, layers tared to `blocks_mass` (None for one each), norm and head of `models.ssm.LanguageModel`."""
    one = layer_tree(atoms, spec, "layers_{layer}", mixer)
    blocks = (one**spec.n_layers).tare(spec.n_layers if blocks_mass is None else blocks_mass)
    head_input = rms_norm_tree(atoms, spec, "norm_f")
    if spec.width_mult != 1:
        head_input = (1 / spec.width_mult) * head_input
    head = atoms.linear("head/kernel", (spec.d_model,), (num_classes,))
    return head @ head_input @ blocks @ atoms.embed("embedding/embedding", num_classes, spec.d_model)


def mup_rows(spec: Spec, m: float) -> list[MupRow]:
    out_std = 0.02 / (2 * spec.n_layers) ** 0.5
    return [
        MupRow("embedding/embedding", "input", 0.02),
        MupRow("head/kernel", "output", 0.0, output_mult=1 / m),
        MupRow(".*/mixer/in_proj/kernel", "hidden", 0.02 / m**0.5, 1 / m, m),
        MupRow(".*/mixer/out_proj/kernel", "hidden", out_std / m**0.5, 1 / m, m),
        MupRow(".*/mixer/conv/kernel", "input", 0.0),
        MupRow(".*/mixer/conv/bias", "bias", None, wd_mult=0.0),
        MupRow(".*/mixer/D", "kept", None, wd_mult=0.0),
    ]


def mup_width_mult(spec: Spec, base_width: int) -> float:
    if spec.mup_base_width != base_width:
        raise TableError(
            f"mup.base_width is {base_width}, but the model has mup_base_width {spec.mup_base_width}; set "
            "config.model.mup_base_width to the same, so that the model drops its gains and divides the head's input."
        )
    return spec.width_mult


_RECORDED = ("in_proj", "conv", "delta", "y", "mixer", "out")  # of each layer


def activations(out: Intermediates, sown: Intermediates) -> dict[str, jax.Array]:
    """Embedding, each mixer's activations and the layers' outputs, the final norm and the logits."""
    del sown
    found = {"embedding": out["embedding"]}
    for layer in (name for name in out if name.startswith("layer")):
        found |= {f"{layer} {name}": out[layer][name] for name in _RECORDED if name in out[layer]}
    return {**found, "norm_f": out["norm_f"], "logits": out["logits"]}


def blocks(model: Any, params: Any, tokens: jax.Array) -> Blocks:
    """Of a language model, for the audit."""
    _, out = model.apply({"params": params}, tokens)
    stem = ("embedding/embedding", out["embedding"])
    return layers(Layer(model.spec, model.mixer_class), model.spec.n_layers, params, out, stem, out["embedding"])


def layers(
    layer: nn.Module, count: int, params: Any, out: Acts, stem: tuple[str, jax.Array], x_BxTxD: jax.Array
) -> Blocks:
    """`Blocks` of `count` layers that start with a norm. stem: see `Blocks`. x_BxTxD: the first layer's input."""
    return Blocks(
        stem=stem,
        inputs=[x_BxTxD, *(out[f"layer{i:02d}"]["out"] for i in range(count - 1))],
        first=[f"layers_{i}/norm/scale" for i in range(count)],
        apply=lambda x, layer_params: layer.apply({"params": layer_params}, x)[0],
        params=[params[f"layers_{i}"] for i in range(count)],
    )


def mup_model(base_width: int) -> Options:
    """What muP asks of `config.model`."""
    return {"scaling": "standard", "mup_base_width": base_width}


ADAM_EPS = {"reference": 1e-8, "strict": 1e-15}
"""Of muP's rule sets: 1e-8 swamps gradients of Delta, of rms 1e-11."""
