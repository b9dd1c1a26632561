"""Studies of a model of your own on your own data: the budget of study_vit, AdamW; studies set what they compare.

Arguments: MODEL,FILE.npz. MODEL: 'package.module:Name' of a Flax module (linen or nnx), of a function that makes one or
of a pair (init, apply); see docs/your_model.md. FILE: arrays train_image, train_label, test_image, test_label; images
(N, H, W, C), or (N, D) numbers or indices; or mnist5k. Options of the model: --config.model.KEY=VALUE.
Command: bvd coord-check --model my_package.nets:Net --data FILE.npz
         (the same as --config own_model:my_package.nets:Net,FILE.npz)
"""

from typing import Any

import ml_collections

from big_vision_dual.train import recipes
from big_vision_dual.train.data import arrays


def get_config(arg: str = "mlp,mnist5k") -> ml_collections.ConfigDict:
    """The recipe; arg: the model and the file."""
    model, comma, file = arg.partition(",")
    if not (model and comma and file):
        raise recipes.RecipeError(f"own_model:{arg}: possible: own_model:package.module:Name,FILE.npz.")
    name = file if arrays.is_array_name(file) else f"array:{file}"
    train = arrays.load(name, "train")
    config: Any = recipes.load("study_vit")
    with config.unlocked(), config.ignore_type():
        config.model_name, config.model = model, ml_collections.ConfigDict()
        config.num_classes, config.input_shape = train.num_classes, train.images.shape[1:]
        if train.images.ndim == 2:
            config.input_dtype = str(train.images.dtype)
        config.input.data = {"name": name, "split": "train"}
        config.evals.val.data = {"name": name, "split": "test"}
        config.input.batch_size = min(config.input.batch_size, len(train.labels))
    return config
