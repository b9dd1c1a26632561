# pyright: reportArgumentType=false, reportOperatorIssue=false
"""The settings that are compared, and the target norms that a trial trains with."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_dual import models
from big_vision_dual.lab.studies import bisect, grid, settings
from big_vision_dual.models import mup, norm_trees
from big_vision_dual.train import recipes

BASE = grid.replace(recipes.load("study_vit").to_dict(), {"model.width": 32, "model.depth": 2})


def target_norms(config):
    return {row.key: row.target_norm for row in norm_trees.table_for(config).rows}


def test_mup_scales_hidden_matrices_and_the_head_and_nothing_else():
    config = settings.apply("mup", grid.replace(BASE, {"model.width": 256}))
    model = models.get("vit").Model(10, **config["model"])
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 28, 28, 1)))["params"]
    table = mup.for_config(config, params)
    scaled = {row.path for row in table.rows if row.lr_mult != 1}
    assert {row.lr_mult for row in table.rows if row.path in scaled} == {0.25}
    assert scaled == {row.path for row in table.rows if row.path.endswith("/kernel")} - {"embedding/kernel"}
    assert table.adam_eps == 1e-8
    assert config["model"]["scaling"] == {"attention_logits": "inverse"}


@pytest.mark.parametrize(("name", "factor"), [("mamba", 7), ("mamba2", 9)])
def test_settings_of_a_state_space_model(name, factor):
    base = recipes.load(f"{name}_bytes").to_dict()
    assert settings.apply("mup", base)["model"]["mup_base_width"] == settings.MUP_BASE_WIDTH
    assert settings.apply("dualize", base)["model"]["mixer_out"] == 1 / factor


def test_an_unknown_setting_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown setting 'sgd'; possible: adamw, adamw_dual, mup, dualize"):
        settings.apply("sgd", BASE)


def test_flat_target_norms_are_equal_with_the_mean_of_the_well_normed_ones():
    well, flat = (target_norms(settings.apply(name, BASE)) for name in ("dualize", "dualize_flat"))
    assert len(set(map(float, flat.values()))) == 1
    assert next(iter(flat.values())) == pytest.approx(np.mean(list(well.values())), rel=1e-6)


def test_blocks_of_a_fixed_mass_keep_every_target_norm_at_any_depth_where_the_default_moves_them():
    def first(name, depth):
        norms = target_norms(settings.apply(name, grid.replace(BASE, {"model.depth": depth})))
        return norms["embedding/kernel"], norms["Transformer/encoderblock_0/MlpBlock_0/Dense_0/kernel"]

    np.testing.assert_allclose(first("dualize_fixed", 2), first("dualize_fixed", 8), rtol=1e-6)
    np.testing.assert_allclose(first("dualize", 4), first("dualize_fixed", 4), rtol=1e-6)
    assert first("dualize", 8)[1] > 1.5 * first("dualize", 2)[1]


def test_target_norms_are_scaled_by_the_first_pattern_that_matches():
    config = settings.apply("dualize", BASE)
    scaled = target_norms({**config, "target_norm_scale": [["head/.*", 3.0], [".*/kernel", 2.0]]})
    before = target_norms(config)
    assert scaled["head/kernel"] == pytest.approx(3 * before["head/kernel"])
    assert scaled["embedding/kernel"] == pytest.approx(2 * before["embedding/kernel"])
    assert scaled["embedding/bias"] == before["embedding/bias"]


def test_the_ends_of_the_bisect_are_the_settings_of_the_other_studies():
    dual = bisect.config_of(BASE, bisect.DUAL)
    assert target_norms(dual) == target_norms(settings.apply("dualize", BASE))
    standard, adamw = bisect.config_of(BASE, bisect.STANDARD), settings.apply("adamw", BASE)
    assert {**standard, "model": None} == {**adamw, "model": None}


def test_departures_change_one_switch_and_cover_all():
    departures = bisect.one_at_a_time("dual")
    for switch, value, variant in departures:
        assert {name for name in variant if variant[name] != bisect.DUAL[name]} == {switch}
        assert variant[switch] == value
    assert {switch for switch, _, _ in departures} == set(bisect.SWITCHES)
    needless = {name for name, switch in bisect.SWITCHES.items() if switch.needs_dualize}
    assert {switch for switch, _, _ in bisect.one_at_a_time("standard")} == set(bisect.SWITCHES) - needless


def test_contrasts_find_additive_effects_and_an_interaction():
    seeds = np.array([0.0, 0.01, -0.01])
    tuned = [_with_loss(1.0 - 0.3 * a - 0.1 * b - 0.2 * a * b + seeds) for a in (0, 1) for b in (0, 1)]
    found = bisect.contrasts(["residual", "init"], tuned)
    assert found["residual"].value == pytest.approx(-0.4)
    assert found["init"].value == pytest.approx(-0.2)
    assert found["residual x init"].value == pytest.approx(-0.1)


def _with_loss(loss_S):
    return bisect.Tuned({}, None, loss_S, loss_S)  # type: ignore[arg-type]
