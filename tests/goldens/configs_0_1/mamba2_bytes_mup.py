"""The Mamba-2 language model over bytes of mamba2_bytes under muP: one learning rate for every d_model.

Command: python -m big_vision_dual.train --config configs/mamba2_bytes_mup.py:FILE --workdir runs/mamba2_bytes_mup
         --config.model.d_model=256
         (FILE as in mamba_bytes)
Rules:   bvd norms build --config mamba2_bytes_mup --mup --config.model.d_model=256 --out T.json; bvd norms show T.json
Expected: see docs/studies.md; lr is the best of 100 steps there.
"""

import ml_collections

from big_vision_dual import recipes


def get_config(path: str = "") -> ml_collections.ConfigDict:
    """The baseline's recipe with muP's initial values and multipliers."""
    return recipes.mup(f"mamba2_bytes:{path}", lr=2**-5, base_width=64)
