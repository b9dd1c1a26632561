"""ViT-S/16 on ImageNet-1k, dual architecture, dualized training with the well-normed table.

Command: python -m big_vision_dual.train --config configs/vit_s16_i1k_dual.py --workdir gs://BUCKET/vit_s16_i1k_dual
Expected: about the baseline's time (docs/performance.md); result not yet run.
"""

import ml_collections
from ml_collections import config_dict

from big_vision_dual import recipes


def get_config() -> ml_collections.ConfigDict:
    """The baseline's recipe with our model, table and optimizer."""
    config = recipes.load("vit_s16_i1k")
    with config.unlocked():
        config.model.scaling = "dual"
        config.norms = dict(
            conventions="well_normed", blocks_mass=config_dict.placeholder(float), masses=dict(Bias=1.0, Scale=1.0)
        )
        config.grad_clip_norm = None  # the dual has unit norm whatever the gradient's
        config.optax_name = "big_vision_dual.scale_by_dualize"
        config.optax = dict(momentum=0.95, nesterov=False, polar="newton_schulz_6", dtype="bfloat16")
        config.lr = 0.1
        config.wd = 1e-4
        config.schedule = dict(warmup_steps=0, decay_type="cosine")
    return config
