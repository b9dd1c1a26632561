"""The demo's dualized ViT: model size, data and steps of mnist5k_vit, dual architecture, well-normed table.

Command: python -m big_vision_dual.train --config configs/mnist5k_vit_dual.py --workdir runs/mnist5k_vit_dual
Expected: see docs/demo.md.
"""

import ml_collections

from big_vision_dual import recipes


def get_config() -> ml_collections.ConfigDict:
    """The baseline's recipe with our model, table and optimizer."""
    return recipes.dualized("mnist5k_vit", lr=0.2)  # tuned: docs/demo.md
