"""ViT-Ti/16 on ImageNet-1k, dualized: the S/16 recipe at another size, same learning rate by transfer.

Command: python -m big_vision_dual.train --config configs/vit_ti16_i1k_dual.py --workdir gs://BUCKET/vit_ti16_i1k_dual
Expected: not yet run.
"""

import ml_collections

from big_vision_dual import recipes


def get_config() -> ml_collections.ConfigDict:
    """The S/16 recipe with variant Ti/16."""
    config = recipes.load("vit_s16_i1k_dual")
    config.model.variant = "Ti/16"
    return config
