"""The demo's dualized ViT: model size, data and steps of mnist5k_vit, dual architecture, well-normed table.

Command: python -m big_vision_dual.train --config configs/mnist5k_vit_dual.py --workdir runs/mnist5k_vit_dual
         (mnist5k_vit_dual.py:equal for equal masses of all atoms)
Expected: see docs/demo.md.
"""

import ml_collections

from big_vision_dual import recipes

LEARNING_RATES = {"light": 0.1, "equal": 0.2}  # tuned by benchmarks/tuning.py, docs/demo.md


def get_config(vectors: str = "light") -> ml_collections.ConfigDict:
    """The baseline's recipe with our model, table and optimizer. vectors: the mass of biases and scales.

    'light': a tenth of a matrix's, and what they leave of the blocks' mass goes to nobody, so each matrix keeps its
    own: 2 * depth * (6 matrices + 10 vectors / 10) / 16. docs/studies.md says why.
    """
    lr = LEARNING_RATES[recipes.choice("mnist5k_vit_dual", vectors, LEARNING_RATES)]
    if vectors == "equal":
        return recipes.dualized("mnist5k_vit", lr=lr)
    depth = recipes.load("mnist5k_vit").model.depth
    return recipes.dualized("mnist5k_vit", lr=lr, vector_mass=0.1, blocks_mass=2 * depth * 7 / 16)
