"""The norm tree of `models.vit`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from big_vision_dual.core.norms import bonds
from big_vision_dual.core.norms.atoms import Atoms
from big_vision_dual.core.norms.module import IDENTITY, Module, NormError
from big_vision_dual.models import arch
from big_vision_dual.models.norm_trees import transformer


def module(
    model: Mapping[str, Any], input_shape: tuple[int, ...], num_classes: int, atoms: Atoms, blocks_mass: float | None
) -> Module:
    """Norm tree of a ViT.

    model: `config.model`, as `models.vit.Model` takes it. input_shape: (height, width, channels).
    num_classes: 0 for a model without head. blocks_mass: what all blocks are tared to; None for 2 * depth.
    """
    size = arch.vit_size_of(model)
    scaling = arch.scaling(model.get("scaling", "standard"))
    tokens = _tokens(input_shape, size.patch_size)
    encoder = transformer.encoder(
        atoms, scaling, size.width, size.num_heads, size.mlp_dim, size.depth,
        scan=model.get("scan", False), mass=2 * size.depth if blocks_mass is None else blocks_mass,
    )  # fmt: skip
    pooled = _pool(model, size, tokens, scaling, atoms) @ encoder @ _stem(model, size, tokens, input_shape[2], atoms)
    return _head(model, size.width, num_classes, atoms) @ pooled


def _tokens(input_shape: tuple[int, ...], patch_size: tuple[int, int]) -> int:
    height, width, _ = input_shape
    if height < patch_size[0] or width < patch_size[1]:
        raise NormError(f"an image of {height} x {width} pixels is smaller than a patch, {patch_size}.")
    return (height // patch_size[0]) * (width // patch_size[1])


def _stem(model: Mapping[str, Any], size: arch.ViTSize, tokens: int, channels: int, atoms: Atoms) -> Module:
    stem = atoms.dense("embedding", (*size.patch_size, channels), (size.width,)) @ bonds.PATCHIFY
    if model.get("posemb", "learn") == "learn":
        stem = stem + atoms.positions("pos_embedding", tokens, size.width)
    if model.get("pool_type", "gap") == "tok":
        stem = stem + atoms.bias("cls", (1, 1, size.width))
    return stem


def _pool(model: Mapping[str, Any], size: arch.ViTSize, tokens: int, scaling: arch.Scaling, atoms: Atoms) -> Module:
    kind = model.get("pool_type", "gap")
    if kind == "gap":
        return atoms.conventions.mean_over(tokens)
    if kind == "map":
        return _map_head(size, scaling, atoms)
    return bonds.SELECT_TOKEN


def _map_head(size: arch.ViTSize, scaling: arch.Scaling, atoms: Atoms) -> Module:
    """Attention pooling: a learned probe attends to the tokens, then one residual MLP."""
    path, split = "MAPHead_0", (size.num_heads, size.width // size.num_heads)
    names = {name: f"{path}/MultiHeadDotProductAttention_0/{name}" for name in ("query", "key", "value", "out")}
    probe = atoms.bias(f"{path}/probe", (1, 1, size.width))
    query, key, value = (atoms.dense(names[name], (size.width,), split) for name in ("query", "key", "value"))
    feed_forward = transformer.mlp(atoms, scaling, f"{path}/MlpBlock_0", size.width, size.mlp_dim)
    branch = feed_forward @ atoms.layer_norm(f"{path}/LayerNorm_0", size.width)
    attend = transformer.attention_out(atoms, scaling, names["out"], split, size.width, (query @ probe, key, value))
    return bonds.SELECT_TOKEN @ transformer.residual(scaling, branch, 2) @ attend


def _head(model: Mapping[str, Any], width: int, num_classes: int, atoms: Atoms) -> Module:
    rep_size = model.get("rep_size", False)
    features = width if rep_size in (False, True) else int(rep_size)
    head = atoms.dense("head", (features,), (num_classes,)) if num_classes else IDENTITY
    return head @ bonds.TANH @ atoms.dense("pre_logits", (width,), (features,)) if rep_size else head
