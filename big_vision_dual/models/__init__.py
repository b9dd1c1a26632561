"""Models in Flax linen, by name, as `config.model_name` has it; each with its record, see `models.family`."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any, TypeVar

from flax import linen as nn

from big_vision_dual.models import arch

MODELS = ("vit", "mlp", "gpt", "mamba", "mamba2", "vision_mamba")
ModelT = TypeVar("ModelT")


def get(name: str) -> Any:
    """'vit' -> `big_vision_dual.models.vit`; 'my_package.resnet' or 'my_package.nets:ResNet' -> see `strangers`.

    Each has a `Model(num_classes, **config.model)`, whose `apply` gives (logits, dict of intermediates).
    Raises `ValueError` for a name that is neither ours nor one of what Python can import.
    """
    if "." in name or ":" in name:
        from big_vision_dual.models import strangers  # here, for ours need no nnx

        return strangers.get(name)
    if name not in MODELS:
        raise ValueError(
            f"unknown model_name {name!r}; possible: {', '.join(MODELS)}, or your own, 'package.module:Name'."
        )
    return importlib.import_module(f"{__name__}.{name}")


def of(config: Any) -> nn.Module:
    """The model of a config: of its model_name, num_classes and model. config: a mapping."""
    return get(config["model_name"]).Model(config["num_classes"], **dict(config.get("model") or {}))


def build(module_class: type[ModelT], **options: Any) -> ModelT:
    """`module_class(**options)` with `scaling` resolved to `arch.Scaling`; a dataclass, as Flax modules are.

    Raises `ValueError` naming the options that `module_class` does not have and those that it has, or those missing.
    """
    described: Any = module_class
    fields = [field for field in dataclasses.fields(described) if field.name not in ("name", "parent")]
    known = [field.name for field in fields]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"unknown options of {module_class.__name__}: {unknown}; possible: {known}.")
    needed = [field.name for field in fields if field.default is field.default_factory is dataclasses.MISSING]
    missing = [name for name in needed if name not in options and name != "scaling"]
    if missing:
        raise ValueError(f"{module_class.__name__} needs {missing} in config.model; given: {sorted(options)}.")
    return module_class(**{**options, "scaling": arch.scaling(options.get("scaling", "standard"))})
