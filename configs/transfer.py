"""Fine-tunes a ViT-S/16 from weights: a checkpoint saved as .npz, Big Vision's or ours.

Command: python -m big_vision_dual.train --config configs/transfer.py --workdir runs/transfer
         --config.model_init=FILE.npz
         --config.input.data.data_dir=DIR
Expected: not yet run at full length.
"""

import ml_collections
from ml_collections import config_dict


def get_config() -> ml_collections.ConfigDict:
    """CIFAR-10 at 224 px: momentum SGD without decay, the head new, as Big Vision transfers (arXiv 2106.10270)."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.total_steps = 500
    config.num_classes = 10
    config.input_shape = (224, 224, 3)
    config.loss = "softmax_xent"

    config.model_name = "vit"
    config.model = dict(variant="S/16", pool_type="gap", posemb="sincos2d", rep_size=False, scaling="standard")
    config.model_init = config_dict.placeholder(str)
    config.model_load = dict(dont_load=("head/kernel", "head/bias"))

    data_dir = config_dict.placeholder(str)
    to_labels = 'onehot(10, key="label", key_result="labels")|keep("image", "labels")'
    config.input = dict(
        data=dict(name="cifar10", split="train", data_dir=data_dir),
        batch_size=512,
        accum_freq=1,
        shuffle_buffer_size=50_000,
        pp=f"decode|resize(256)|random_crop(224)|flip_lr|value_range(-1, 1)|{to_labels}",
    )
    config.grad_clip_norm = 1.0
    config.optax_name = "big_vision.momentum_hp"
    config.optax = dict(momentum=0.9)
    config.lr = 0.01
    config.wd = 0.0
    config.schedule = dict(warmup_steps=50, decay_type="cosine")

    config.log_training_steps = 50
    config.ckpt_steps = 250
    config.evals = dict(
        val=dict(
            type="classification", pp_fn=f"decode|resize(224)|value_range(-1, 1)|{to_labels}",
            loss_name="softmax_xent", log_steps=250, data=dict(name="cifar10", split="test", data_dir=data_dir),
        )
    )  # fmt: skip
    config.wandb = None
    return config
