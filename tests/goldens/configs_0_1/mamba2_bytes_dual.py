"""The Mamba-2 of mamba2_bytes: dual architecture, dualized training with the well-normed table.

Command: python -m big_vision_dual.train --config configs/mamba2_bytes_dual.py:FILE --workdir runs/mamba2_bytes_dual
         (FILE as in mamba_bytes)
Expected: see docs/studies.md, "The recipes"; lr is the best of 300 steps there.
"""

import ml_collections

from big_vision_dual import arch_ssm, recipes


def get_config(path: str = "") -> ml_collections.ConfigDict:
    """The baseline's recipe with our model, table and optimizer."""
    return recipes.dualized(
        f"mamba2_bytes:{path}",
        lr=0.25,
        momentum=0.9,
        vector_mass=0.1,
        blocks_mass=5.0,
        mixer_out=arch_ssm.MIXER_OUT["mamba2"],
    )
