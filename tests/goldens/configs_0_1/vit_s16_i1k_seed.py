"""The first public dualized ViT-S/16 as it was, kept to be reproduced: it severely underperforms.

Command: python -m big_vision_dual.train --config configs/vit_s16_i1k_seed.py --workdir gs://BUCKET/vit_s16_i1k_seed
Expected: l2_params grows to 50x the baseline's (its author's report); not yet run here. docs/norms.md says why.
"""

import ml_collections

from big_vision_dual import recipes


def get_config() -> ml_collections.ConfigDict:
    """Our recipe under the seed conventions and the seed's hyperparameters."""
    config = recipes.load("vit_s16_i1k_dual")
    with config.unlocked():
        config.norms.conventions = "seed"
        config.lr = 0.05
        config.wd = 0.005
        config.optax = dict(momentum=0.95, nesterov=False, polar="newton_schulz_6", dtype="float32", scale_floor=False)
        config.schedule = dict(warmup_steps=0, decay_type="cosine")
        config.input.pp = config.input.pp.replace("inception_crop(224)", "inception_crop(224, area_min=20)")
    return config
