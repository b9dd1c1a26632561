"""A ViT with patches of 4 pixels on CIFAR-10 with AdamW, through the TFDS path.

Command: python -m big_vision_dual.train --config configs/cifar10_vit.py --workdir runs/cifar10_vit
         --config.input.data.data_dir=DIR
Expected: .42 and .41 after 300 steps (docs/cifar10.md; two seeds, CPU); the full length is not yet run.
"""

import ml_collections
from ml_collections import config_dict


def get_config() -> ml_collections.ConfigDict:
    """The recipe; DIR holds the TFDS data set cifar10 (`tfds build cifar10`)."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.total_steps = 11_700  # 30 epochs
    config.num_classes = 10
    config.input_shape = (32, 32, 3)
    config.loss = "softmax_xent"

    config.model_name = "vit"
    config.model = dict(
        width=96, depth=4, mlp_dim=384, num_heads=3, patch_size=(4, 4), pool_type="gap", posemb="sincos2d",
        scaling="standard",
    )  # fmt: skip
    data_dir = config_dict.placeholder(str)  # one reference: --config.input.data.data_dir sets both
    to_labels = 'onehot(10, key="label", key_result="labels")|keep("image", "labels")'
    config.input = dict(
        data=dict(name="cifar10", split="train", data_dir=data_dir),
        batch_size=128,
        accum_freq=1,
        shuffle_buffer_size=50_000,
        pp=f"decode|inception_crop(32, area_min=50)|flip_lr|value_range(-1, 1)|{to_labels}",
    )
    config.mixup = dict(p=0.0)

    config.grad_clip_norm = 1.0
    config.optax_name = "scale_by_adam"
    config.optax = dict(b2=0.95)
    config.lr = 2e-3
    config.wd = 1e-4
    config.schedule = dict(warmup_percent=0.1, decay_type="cosine")

    config.log_training_steps = 10
    config.ckpt_steps = 500
    config.evals = dict(
        val=dict(
            type="classification", pp_fn=f"decode|value_range(-1, 1)|{to_labels}", loss_name="softmax_xent",
            log_percent=0.1, data=dict(name="cifar10", split="test", data_dir=data_dir),
        )
    )  # fmt: skip
    config.wandb = None
    return config
