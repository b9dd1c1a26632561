"""The smallest run with all parts: 8 x 8 images from an NPZ file, a ViT block of width 32, or an MLP."""

import os

import ml_collections
from ml_collections import config_dict


def get_config(model: str = "vit") -> ml_collections.ConfigDict:
    """model: 'vit', or 'mlp', which compiles faster.

    DATA in the environment names the file of images (see conftest.py).
    """
    config = ml_collections.ConfigDict()
    config.seed = 3
    config.total_steps = 12
    config.num_classes = 5
    config.input_shape = (8, 8, 3)
    config.loss = "softmax_xent"
    config.label_smoothing = 0.0
    config.model_name = model
    vit = dict(
        width=32, depth=1, mlp_dim=48, num_heads=2, patch_size=(4, 4), pool_type="gap", posemb="learn",
        head_zeroinit=False, scan=False, scaling="standard", dropout=0.0, dtype_mm="float32",
    )  # fmt: skip
    config.model = vit if model == "vit" else dict(width=32, depth=2, scaling="standard", head_zeroinit=False)
    data = f"array:{os.environ['DATA']}"
    config.input = dict(data=dict(name=data, split="train"), batch_size=32, accum_freq=1, augment="flip_lr")
    config.mixup = dict(p=0.2)
    config.ema = config_dict.placeholder(dict)
    config.mesh = [("data", -1)]
    config.sharding_strategy = [(".*", "replicate")]
    config.optax_name = "identity"
    config.optax = dict()
    config.lr = 0.3
    config.wd = 1e-3
    config.schedule = dict(warmup_steps=2, decay_type="cosine")
    config.log_atom_norms = False
    config.log_training_steps = 1
    config.ckpt_steps = 4
    config.keep_ckpt_steps = 0
    config.resume = config_dict.placeholder(str)
    config.model_init = config_dict.placeholder(str)
    config.init_head_bias = config_dict.placeholder(float)
    config.profile = config_dict.placeholder(dict)
    config.wandb = False
    config.evals = dict(
        val=dict(type="classification", data=dict(name=data, split="test"), log_steps=5, skip_first=True),
    )
    return config
