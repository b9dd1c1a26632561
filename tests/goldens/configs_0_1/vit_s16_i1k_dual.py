"""ViT-S/16 on ImageNet-1k, dual architecture, dualized training with the well-normed table.

Command: python -m big_vision_dual.train --config configs/vit_s16_i1k_dual.py --workdir gs://BUCKET/vit_s16_i1k_dual
Expected: about the baseline's time (docs/performance.md); result not yet run.
"""

import ml_collections

from big_vision_dual import recipes


def get_config() -> ml_collections.ConfigDict:
    """The baseline's recipe with our model, table and optimizer."""
    return recipes.dualized("vit_s16_i1k", lr=0.1, dtype="bfloat16", shard_axis="data")
