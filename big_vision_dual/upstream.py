"""Plugs this package into an unmodified upstream Big Vision, whose config file imports it (docs/upstream.md).

Facts used, read in google-research/big_vision (big_vision/optax.py, big_vision/train.py): `optax_name` is an attribute
path on the optax module, called with `**config.optax`; `model_name` is imported as big_vision.models.NAME, and that
module's `Model(num_classes=, **config.model)` and `load(params, config.model_init, config.model, **config.model_load)`
are called. Importing touches no device, so it may come before `jax.distributed.initialize`.
"""

from __future__ import annotations

import sys
import types
from typing import Any

import ml_collections
import optax
from flax import linen as nn

from big_vision_dual import models
from big_vision_dual.core import dualize
from big_vision_dual.models import weights
from big_vision_dual.train.recipes import DUALIZE


def register() -> None:
    """Makes `optax.big_vision_dual.scale_by_dualize` and the modules big_vision.models.dual_{vit,...} known."""
    namespace, _, name = DUALIZE.partition(".")
    setattr(optax, namespace, types.SimpleNamespace(**{name: dualize.scale_by_dualize}))
    for name in models.MODELS:
        module = _model_module(name)
        sys.modules[module.__name__] = module


def _model_module(name: str) -> types.ModuleType:
    """big_vision.models.dual_NAME, with Model and load as Big Vision calls them."""
    module = types.ModuleType(f"big_vision.models.dual_{name}", f"`big_vision_dual.models.{name}` for Big Vision.")

    def model(num_classes: int | None = None, **options: Any) -> nn.Module:
        """`big_vision_dual.models` takes plain dicts, `config.model` holds ConfigDicts."""
        return models.get(name).Model(num_classes, **ml_collections.ConfigDict(options).to_dict())

    vars(module).update(Model=model, load=weights.load)
    return module


register()
