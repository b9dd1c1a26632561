"""The demo's dualized ViT: model size, data and steps of mnist5k_vit, dual architecture, masses by role.

Command: python -m big_vision_dual.train --config configs/mnist5k_vit_dual.py --workdir runs/mnist5k_vit_dual
         (mnist5k_vit_dual.py:light for the demo of version 0.1, :equal for equal masses of all atoms)
Expected: see docs/demo.md.
"""

import ml_collections

from big_vision_dual.train import recipes

LEARNING_RATES = {"roles": 0.54, "light": 0.1, "equal": 0.2}  # of docs/track.md; docs/demo.md


def get_config(masses: str = "roles") -> ml_collections.ConfigDict:
    """The baseline's recipe with our model, table and optimizer. masses: those of the parameters.

    'roles': the recipe's. 'light': biases and scales a tenth of a matrix's, and what they leave of the blocks' mass
    goes to nobody, so each matrix keeps its own: 2 * depth * (6 matrices + 10 vectors / 10) / 16.
    """
    lr = LEARNING_RATES[recipes.choice("mnist5k_vit_dual", masses, LEARNING_RATES)]
    if masses == "roles":
        return recipes.dualized("mnist5k_vit", lr=lr, radius=100.0)
    if masses == "equal":
        return recipes.of_0_1("mnist5k_vit", lr=lr)
    depth = recipes.load("mnist5k_vit").model.depth
    return recipes.of_0_1("mnist5k_vit", lr=lr, vector_mass=0.1, blocks_mass=2 * depth * 7 / 16)
