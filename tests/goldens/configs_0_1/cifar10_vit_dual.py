"""The CIFAR-10 ViT, dualized.

Command: python -m big_vision_dual.train --config configs/cifar10_vit_dual.py --workdir runs/cifar10_dual
         --config.input.data.data_dir=DIR
Expected: .48 and .49 after 300 steps (docs/cifar10.md; two seeds, CPU); the full length is not yet run.
"""

import ml_collections

from big_vision_dual import recipes


def get_config() -> ml_collections.ConfigDict:
    """The baseline's recipe with our model, table and optimizer."""
    return recipes.dualized("cifar10_vit", lr=0.2)  # tuned at 100 steps: docs/cifar10.md
