"""The norm trees of the state-space models against the parameter trees of their models."""

import jax
import jax.numpy as jnp
import pytest

from big_vision_dual import models
from big_vision_dual.core import norms, tables
from big_vision_dual.models import norm_trees

MODELS = {
    "mamba": ({"d_model": 24, "n_layers": 3, "d_state": 5, "dt_rank": 2}, (7,)),
    "mamba2": ({"d_model": 24, "n_layers": 3, "d_state": 5, "d_head": 8, "n_groups": 2}, (7,)),
    "vision_mamba": ({"width": 24, "depth": 3, "patch_size": (2, 3), "d_state": 5}, (8, 9, 2)),
}


def config(name, **changes):
    model, shape = MODELS[name]
    return {"model_name": name, "model": {**model, **changes}, "num_classes": 11, "input_shape": shape}


CASES = [(name, changes) for name in MODELS for changes in ({}, {"scaling": "dual"})]
CASES += [(name, {"mup_base_width": 12}) for name in ("mamba", "mamba2")]


@pytest.mark.parametrize(("name", "changes"), CASES)
def test_rows_cover_the_leaves_of_the_model(name, changes):
    described = config(name, **changes)
    example = jnp.zeros((1, *described["input_shape"]), jnp.float32 if name == "vision_mamba" else jnp.int32)
    model = models.get(name).Model(11, **described["model"])
    params = jax.eval_shape(model.init, jax.random.key(0), example)["params"]
    tables.check(norm_trees.table_for(described), params)


def test_slices_of_fused_projections_are_atoms():
    rows = {row.key: row for row in norm_trees.table_for(config("mamba2")).rows}
    keys = [key for key in rows if key.startswith("layers_1/mixer/in_proj")]
    assert keys == [
        f"layers_1/mixer/in_proj/kernel[1:{start}:{stop}]"
        for start, stop in ((48, 96), (96, 106), (106, 116), (116, 122), (0, 48))
    ]
    assert rows[keys[0]].shape == (24, 48)
    kinds = [rows[key].atom for key in keys]
    assert kinds == ["Linear", "Linear", "Linear", "MaxLinear", "Linear"]  # the fourth is dt, a head's Delta each


@pytest.mark.parametrize(("name", "factor"), [("mamba", 1 / 7), ("mamba2", 1 / 9)])
def test_mixer_out_bounds_the_sensitivity_of_a_deep_model(name, factor):
    sensitivity = norm_trees.for_config(config(name, n_layers=24, scaling="dual", mixer_out=factor)).sensitivity
    assert 0.8 < sensitivity < 1.05
    assert norm_trees.for_config(config(name, n_layers=24, scaling="dual")).sensitivity > 100


def test_blocks_mass_is_one_a_layer():
    tree = norm_trees.for_config(config("mamba"))
    assert tree.mass == pytest.approx(3 + 3)  # three layers, and embedding, norm_f, head
    rates = [t for t in norms.dry_run(tree) if t.atom.path.endswith("A_log")]
    gains = [t for t in norms.dry_run(tree) if t.atom.path.endswith("mixer/D")]
    assert all(a.atom.mass == pytest.approx(0.1 * d.atom.mass) for a, d in zip(rates, gains, strict=True))
