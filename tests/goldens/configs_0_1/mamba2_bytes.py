"""A small Mamba-2 language model over bytes: the recipe mamba_bytes with heads of 16.

Command: python -m big_vision_dual.train --config configs/mamba2_bytes.py:FILE --workdir runs/mamba2_bytes
         (FILE as in mamba_bytes)
Expected: not yet run at full length (1000 steps).
"""

import ml_collections

from big_vision_dual import recipes


def get_config(path: str = "") -> ml_collections.ConfigDict:
    """The recipe; path: the text, of which the last tenth is held out."""
    config = recipes.load(f"mamba_bytes:{path}")
    with config.unlocked():
        config.model_name = "mamba2"
        config.model = dict(d_model=64, n_layers=2, d_head=16, d_state=16, scaling="standard")
    return config
