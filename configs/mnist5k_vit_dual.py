"""The demo's dualized ViT: model size, data and steps of mnist5k_vit, dual architecture, well-normed table.

Command: python -m big_vision_dual.train --config configs/mnist5k_vit_dual.py --workdir runs/mnist5k_vit_dual
Expected: see docs/demo.md.
"""

import ml_collections
from ml_collections import config_dict

from big_vision_dual import recipes


def get_config() -> ml_collections.ConfigDict:
    """The baseline's recipe with our model, table and optimizer."""
    config = recipes.load("mnist5k_vit")
    with config.unlocked():
        config.model.scaling = "dual"
        config.norms = dict(
            conventions="well_normed", blocks_mass=config_dict.placeholder(float), masses=dict(Bias=1.0, Scale=1.0)
        )
        config.grad_clip_norm = None  # the dual has unit norm whatever the gradient's
        config.optax_name = "big_vision_dual.scale_by_dualize"
        config.optax = dict(momentum=0.95, nesterov=False, polar="newton_schulz_6", dtype="float32")
        config.lr = 0.2  # tuned by benchmarks/demo_tuning.py, docs/demo.md
        config.schedule = dict(warmup_steps=0, decay_type="cosine")
    return config
