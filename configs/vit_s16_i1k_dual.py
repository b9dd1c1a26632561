"""ViT-S/16 on ImageNet-1k, dual architecture, dualized training with the well-normed table, masses by role.

Command: python -m big_vision_dual.train --config configs/vit_s16_i1k_dual.py --workdir gs://BUCKET/vit_s16_i1k_dual
         (vit_s16_i1k_dual.py:0.1 for the recipe of version 0.1: one mass for all atoms, momentum .95)
Expected: about the baseline's time (docs/performance.md); result not yet run. Masses, momentum and warm-up are those
that won on small models (docs/track.md); the radius is one that pays over 5,000 steps (docs/size.md). lr is not tuned
here: at a fifth of the digits' best an entry of a block's matrices moves by 5e-4 a step, of MLP-down by 1e-3, as in
recipes that train a ViT-S/16.
"""

import ml_collections

from big_vision_dual.train import recipes


def get_config(version: str = "0.2") -> ml_collections.ConfigDict:
    """The baseline's recipe with our model, table and optimizer."""
    if recipes.choice("vit_s16_i1k_dual", version, ("0.2", "0.1")) == "0.1":
        return recipes.of_0_1("vit_s16_i1k", lr=0.1, dtype="bfloat16", shard_axis="data")
    return recipes.dualized("vit_s16_i1k", lr=0.1, radius=50.0, polar="schatten_5", dtype="bfloat16", shard_axis="data")
