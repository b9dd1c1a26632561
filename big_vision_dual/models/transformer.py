"""The pre-LayerNorm transformer of ViT and GPT, with every `arch.Scaling` switch: sizes, layers, norm trees, muP.

Names of modules, leaves and intermediates are Big Vision's (google-research/big_vision, models/vit.py).
Shapes: B batch, T and S tokens (queries and keys), D width, H heads, K width of a head.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from big_vision_dual.core.norms import bonds
from big_vision_dual.core.norms.atoms import Atoms
from big_vision_dual.core.norms.module import IDENTITY, Module
from big_vision_dual.core.tables.schema import TableError
from big_vision_dual.models import arch, family, init
from big_vision_dual.models.family import Blocks, Intermediates, MupRow, Options


@dataclasses.dataclass(frozen=True)
class Size:
    """Sizes of a ViT or GPT; the patch size in pixels, (height, width)."""

    width: int
    depth: int
    mlp_dim: int
    num_heads: int
    patch_size: tuple[int, int] = (16, 16)


SIZES = {  # name: width, depth, mlp_dim, num_heads (google-research/big_vision, models/vit.py)
    "mu": Size(32, 1, 128, 2),
    "Ti": Size(192, 12, 768, 3),
    "S": Size(384, 12, 1536, 6),
    "M": Size(512, 12, 2048, 8),
    "B": Size(768, 12, 3072, 12),
    "L": Size(1024, 24, 4096, 16),
    "So400m": Size(1152, 27, 4304, 16),
    "H": Size(1280, 32, 5120, 16),
    "g": Size(1408, 40, 6144, 16),
    "g-opt": Size(1536, 40, 6144, 16),
    "G": Size(1664, 48, 8192, 16),
}


def named_size(variant: str) -> Size:
    """'S/16' -> the sizes of ViT-S with patches of 16 x 16 pixels, also the default of a bare 'S'."""
    name, _, patch = variant.partition("/")
    if name not in SIZES or (patch and not patch.isdigit()):
        raise ValueError(f"unknown ViT variant {variant!r}; possible: NAME or NAME/PATCH, NAME in {list(SIZES)}.")
    return dataclasses.replace(SIZES[name], patch_size=(int(patch),) * 2) if patch else SIZES[name]


def size_of(model: Options) -> Size:
    """The sizes that a `config.model` gives: its variant (default B), overridden by sizes given on their own.

    A width without mlp_dim takes mlp_dim = 4 * width, as Big Vision does.
    """
    size = named_size(model.get("variant") or "B")
    given = {f.name: model[f.name] for f in dataclasses.fields(Size) if model.get(f.name) is not None}
    if "width" in given and "mlp_dim" not in given:
        given["mlp_dim"] = 4 * given["width"]
    size = dataclasses.replace(size, **{name: _pair(v) if name == "patch_size" else v for name, v in given.items()})
    if size.width % size.num_heads:
        raise ValueError(f"width {size.width} does not divide into {size.num_heads} heads; change one of them.")
    return size


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


REMAT_POLICIES = (
    "none",
    "nothing_saveable",
    "dots_saveable",
    "dots_with_no_batch_dims_saveable",
    "everything_saveable",
)


@dataclasses.dataclass(frozen=True)
class BlockSpec:
    """What all blocks of a model share. dtype_mm: of the matrix products; norms, softmax and sums stay float32."""

    mlp_dim: int
    num_heads: int
    scaling: arch.Scaling
    dropout: float = 0.0
    dtype_mm: str = "float32"
    causal: bool = False


def gelu(x: jax.Array, kind: str) -> jax.Array:
    """GELU in its tanh form; 'unit' divides by 1.1289, so that the slope is at most 1."""
    return nn.gelu(x) / bonds.GELU_LIPSCHITZ if kind == "unit" else nn.gelu(x)


def residual(x: jax.Array, branch: jax.Array, kind: str, branches: int) -> jax.Array:
    """'sum': x + branch. 'convex': (1 - 1/branches) x + branch / branches, for a stream with so many branches."""
    return x + branch if kind == "sum" else (1 - 1 / branches) * x + branch / branches


class MultiHeadDotProductAttention(nn.Module):
    """Attention of queries_BxTxD over inputs_BxSxD -> BxTxD. Sows `attention_logits` (B, H, T, S), unmasked."""

    spec: BlockSpec

    @nn.compact
    def __call__(self, queries_BxTxD: jax.Array, inputs_BxSxD: jax.Array) -> jax.Array:
        spec, width = self.spec, queries_BxTxD.shape[-1]
        dense = functools.partial(
            nn.DenseGeneral, dtype=spec.dtype_mm, kernel_init=init.initializers(spec.scaling.init).block
        )
        split = functools.partial(dense, features=(spec.num_heads, width // spec.num_heads), axis=-1)
        query_BxTxHxK = split(name="query")(queries_BxTxD)
        key_BxSxHxK = split(name="key")(inputs_BxSxD)
        value_BxSxHxK = split(name="value")(inputs_BxSxD)
        weights_BxHxTxS = self.weights(query_BxTxHxK, key_BxSxHxK).astype(value_BxSxHxK.dtype)
        at_values, at_output = spec.scaling.attention_out_factors
        mixed_BxTxHxK = jnp.einsum("BHTS,BSHK->BTHK", weights_BxHxTxS, value_BxSxHxK) * at_values
        return dense(features=width, axis=(-2, -1), name="out")(mixed_BxTxHxK) * at_output

    def weights(self, query_BxTxHxK: jax.Array, key_BxSxHxK: jax.Array) -> jax.Array:
        """Softmax over S of the scaled, masked logits, in float32."""
        head_width = query_BxTxHxK.shape[-1]
        scale = 1 / head_width if self.spec.scaling.attention_logits == "inverse" else head_width**-0.5
        logits_BxHxTxS = jnp.einsum(
            "BTHK,BSHK->BHTS", query_BxTxHxK * scale, key_BxSxHxK, preferred_element_type=jnp.float32
        )
        self.sow("intermediates", "attention_logits", logits_BxHxTxS)
        if self.spec.causal:
            past_TxS = jnp.tril(jnp.ones(logits_BxHxTxS.shape[-2:], bool))
            logits_BxHxTxS = jnp.where(past_TxS, logits_BxHxTxS, -jnp.inf)
        return jax.nn.softmax(logits_BxHxTxS, axis=-1)


class MlpBlock(nn.Module):
    """x_BxTxD -> BxTxD through `mlp_dim` GELUs."""

    spec: BlockSpec
    train: bool

    @nn.compact
    def __call__(self, x_BxTxD: jax.Array) -> jax.Array:
        inits = init.initializers(self.spec.scaling.init)
        dense = functools.partial(nn.Dense, dtype=self.spec.dtype_mm, kernel_init=inits.block, bias_init=inits.mlp_bias)
        hidden_BxTxM = gelu(dense(self.spec.mlp_dim, name="Dense_0")(x_BxTxD), self.spec.scaling.gelu)
        hidden_BxTxM = nn.Dropout(self.spec.dropout)(hidden_BxTxM, deterministic=not self.train)
        return dense(x_BxTxD.shape[-1], name="Dense_1")(hidden_BxTxM)


class EncoderBlock(nn.Module):
    """One layer: x_BxTxD -> (BxTxD, intermediates sa, +sa, mlp, +mlp). `depth` layers make 2 * depth branches."""

    spec: BlockSpec
    depth: int
    train: bool

    @nn.compact
    def __call__(self, x_BxTxD: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        add = functools.partial(residual, kind=self.spec.scaling.residual, branches=2 * self.depth)
        dropout = functools.partial(nn.Dropout(self.spec.dropout), deterministic=not self.train)
        out = {}
        y = nn.LayerNorm(name="LayerNorm_0")(x_BxTxD)
        y = out["sa"] = MultiHeadDotProductAttention(self.spec, name="MultiHeadDotProductAttention_0")(y, y)
        x = out["+sa"] = add(x_BxTxD, dropout(y))
        y = nn.LayerNorm(name="LayerNorm_1")(x)
        y = out["mlp"] = MlpBlock(self.spec, self.train, name="MlpBlock_0")(y)
        x = out["+mlp"] = add(x, dropout(y))
        return x, out


class Encoder(nn.Module):
    """`depth` blocks and `encoder_norm`: x_BxTxD -> (BxTxD, intermediates block00, ..., pre_ln).

    scan: one stacked leaf per kind under `encoderblock` (compiles once), instead of `encoderblock_{i}`.
    remat_policy: 'none', or what a block keeps for its backward pass: a name in `jax.checkpoint_policies`.
    """

    spec: BlockSpec
    depth: int
    scan: bool = False
    remat_policy: str = "none"

    @nn.compact
    def __call__(self, x_BxTxD: jax.Array, train: bool) -> tuple[jax.Array, dict[str, Any]]:
        block = rematerialized(EncoderBlock, self.remat_policy, self.scan)
        options: dict[str, Any] = {"spec": self.spec, "depth": self.depth, "train": train}
        x = x_BxTxD.astype(jnp.float32)
        out = {}
        if self.scan:
            layers = nn.scan(
                block,
                variable_axes={"params": 0, "intermediates": 0},
                split_rngs={"params": True, "dropout": True},
                length=self.depth,
            )
            x, stacked = layers(**options, name="encoderblock")(x)
            for i in range(self.depth):
                out[f"block{i:02d}"] = {name: leaf[i] for name, leaf in stacked.items()}
        else:
            for i in range(self.depth):
                x, out[f"block{i:02d}"] = block(**options, name=f"encoderblock_{i}")(x)
        out["pre_ln"] = x
        return nn.LayerNorm(name="encoder_norm")(x), out


def rematerialized(block: type[nn.Module], policy: str, scan: bool) -> type[nn.Module]:
    """`block`, recomputed in the backward pass as `policy` says.

    Outside a scan the compiler sees that work is repeated, and must be kept from sharing it.
    """
    if policy not in REMAT_POLICIES:
        raise ValueError(f"remat_policy is {policy!r}; possible: {', '.join(map(repr, REMAT_POLICIES))}.")
    if policy == "none":
        return block
    return nn.remat(block, prevent_cse=not scan, policy=getattr(jax.checkpoint_policies, policy))


def attention_core_tree(scaling: arch.Scaling, head_dim: int, query: Module, key: Module, value: Module) -> Module:
    """apply(values, softmax(Q K^T)): query, key and value count once each."""
    logits = bonds.attention_logits(scaling.attention_logits, head_dim)
    return bonds.APPLY_SCORES @ (value + bonds.SOFTMAX @ logits @ (query + key))


def attention_tree(atoms: Atoms, scaling: arch.Scaling, path: str, width: int, heads: int) -> Module:
    """Multi-head self-attention with biases, kernels (d, heads, d/heads) and (heads, d/heads, d)."""
    split = (heads, width // heads)
    query, key, value = (atoms.dense(f"{path}/{name}", (width,), split) for name in ("query", "key", "value"))
    return attention_out_tree(atoms, scaling, f"{path}/out", split, width, (query, key, value))


def attention_out_tree(
    atoms: Atoms,
    scaling: arch.Scaling,
    path: str,
    split: tuple[int, int],
    width: int,
    inputs: tuple[Module, Module, Module],
) -> Module:
    """The `out` projection of attention to (query, key, value), with the factor of `Scaling` in its place."""
    at_values, at_output = scaling.attention_out_factors
    if not atoms.conventions.follows_attention_out:
        at_values, at_output = scaling.attention_out, 1.0
    out = atoms.dense(path, split, (width,)) @ times(at_values, attention_core_tree(scaling, split[1], *inputs))
    return times(at_output, out)


def times(factor: float, module: Module) -> Module:
    """factor * module, without a bond for 1."""
    return module if factor == 1 else factor * module


def mlp_tree(atoms: Atoms, scaling: arch.Scaling, path: str, width: int, hidden: int) -> Module:
    """Dense, GELU, Dense."""
    first = atoms.dense(f"{path}/Dense_0", (width,), (hidden,))
    return atoms.dense(f"{path}/Dense_1", (hidden,), (width,)) @ bonds.gelu(scaling.gelu) @ first


def residual_tree(scaling: arch.Scaling, branch: Module, branches: int) -> Module:
    """x + f(x), or the convex (1 - 1/n) x + f(x)/n with n residual branches in the whole network."""
    if scaling.residual == "sum":
        return IDENTITY + branch
    return (1 - 1 / branches) * IDENTITY + (1 / branches) * branch


def block_tree(
    atoms: Atoms, scaling: arch.Scaling, path: str, width: int, heads: int, hidden: int, depth: int
) -> Module:
    """One encoder block: attention, then MLP, each behind its own LayerNorm and a residual connection."""
    attention = attention_tree(atoms, scaling, f"{path}/MultiHeadDotProductAttention_0", width, heads)
    feed_forward = mlp_tree(atoms, scaling, f"{path}/MlpBlock_0", width, hidden)
    attend = residual_tree(scaling, attention @ atoms.layer_norm(f"{path}/LayerNorm_0", width), 2 * depth)
    return residual_tree(scaling, feed_forward @ atoms.layer_norm(f"{path}/LayerNorm_1", width), 2 * depth) @ attend


def encoder_tree(
    atoms: Atoms, scaling: arch.Scaling, width: int, heads: int, hidden: int, depth: int, *, scan: bool, mass: float
):
    """`depth` blocks tared to `mass`, and the final LayerNorm; stacked leaves where `scan`."""
    path = "Transformer/encoderblock" if scan else "Transformer/encoderblock_{layer}"
    blocks = (block_tree(atoms, scaling, path, width, heads, hidden, depth) ** depth).tare(mass)
    return atoms.layer_norm("Transformer/encoder_norm", width) @ blocks


def mup_rows(model: Options, base_width: int, rules: str) -> list[MupRow]:
    """ViT and GPT: xavier and lecun kernels already shrink with 1/sqrt(fan-in); the head and the queries start at 0.

    Both as arXiv 2203.03466, appendix D.2, advises: logits and attention logits of random weights are Theta(1/sqrt(m)),
    those of trained ones Theta(1), so that random ones change by less in a wider model until training outgrows them.
    The multiplier 1/m of the head's input is moved into its learning rate, which is the same under Adam (arXiv
    2203.03466, lemma J.1), so the model needs no switch.
    """
    del rules
    if arch.scaling(model.get("scaling", "standard")).attention_logits != "inverse":
        raise TableError("muP divides q.k by d_head: set config.model.scaling = dict(attention_logits='inverse').")
    if type(model.get("rep_size", False)) is int:
        raise TableError(f"rep_size {model['rep_size']} does not grow with the width; use True or False under muP.")
    m = size_of(model).width / base_width
    return [
        MupRow("embedding/(kernel|embedding)|pos_embedding|cls|.*/probe", "input", None),
        MupRow("head/kernel", "output", 0.0, 1 / m, m),
        MupRow(".*/query/kernel", "hidden", 0.0, 1 / m, m),
        MupRow(".*/kernel", "hidden", None, 1 / m, m),
        MupRow(".*/bias", "bias", None, wd_mult=0.0),
        MupRow(".*/scale", "kept", None, wd_mult=0.0),
    ]


def activations(out: Intermediates, sown: Intermediates) -> dict[str, jax.Array]:
    """The stem, each block's output and attention logits, the encoder's output and the logits."""
    found = {"stem": out["stem"]}
    for name, block in out["encoder"].items():
        if name.startswith("block"):
            found[f"{name} out"] = block["+mlp"]
    for name, logits in _attention_logits(sown).items():
        found[f"{name} attention logits"] = logits
    return {**found, "encoded": out["encoded"], "logits": out["logits"]}


def _attention_logits(sown: Intermediates) -> dict[str, jax.Array]:
    """{block: its logits}; a scanned encoder has them stacked over axis 0."""

    def of(module: Intermediates) -> jax.Array:
        return module["MultiHeadDotProductAttention_0"]["attention_logits"][0]  # sow keeps a tuple of one value

    encoder = sown["Transformer"]
    if "encoderblock" in encoder:
        return {f"block{i:02d}": logits for i, logits in enumerate(of(encoder["encoderblock"]))}
    return {f"block{i:02d}": of(encoder[f"encoderblock_{i}"]) for i in range(len(encoder))}


def blocks(model: Any, params: Any, inputs: jax.Array, stem: str, *, causal: bool) -> Blocks:
    """Of a ViT or GPT that is not scanned. stem: path of its first weights."""
    _, out = model.apply({"params": params}, inputs, train=False)
    block = EncoderBlock(
        BlockSpec(model.mlp_dim, model.num_heads, model.scaling, causal=causal), model.depth, train=False
    )
    names = [f"encoderblock_{i}" for i in range(model.depth)]
    return Blocks(
        stem=(stem, out["stem"]),
        inputs=[out["with_posemb"], *(out["encoder"][f"block{i:02d}"]["+mlp"] for i in range(model.depth - 1))],
        first=[f"Transformer/{name}/LayerNorm_0/scale" for name in names],
        apply=lambda x, block_params: block.apply({"params": block_params}, x)[0],
        params=[params["Transformer"][name] for name in names],
    )


MUP = family.Mup(mup_rows, model=lambda base_width: {"scaling": {"attention_logits": "inverse"}})  # noqa: ARG005
