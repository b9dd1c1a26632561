"""The audit passes a well-normed table and finds what was broken on purpose. Tiny ViT, MNIST digits."""

import pytest

from big_vision_dual import recipes
from big_vision_dual.studies import grid, norm_audit, settings

CONFIG = settings.dualize(
    grid.replace(
        recipes.load("study_vit").to_dict(),
        {"model.width": 16, "model.depth": 2, "model.num_heads": 2, "lr": 0.1, "input.batch_size": 32},
    )
)


def test_a_well_normed_table_passes():
    findings = norm_audit.audit(CONFIG, steps=3)
    assert {finding.what for finding in findings} == set(norm_audit.KINDS)
    assert [finding for finding in findings if finding.flagged] == []


def test_an_atom_that_moves_a_hundred_times_too_far_is_found():
    broken = {**CONFIG, "target_norm_scale": [["Transformer/encoderblock_1/MlpBlock_0/Dense_1/kernel", 100.0]]}
    flagged = [finding for finding in norm_audit.audit(broken, steps=3) if finding.flagged]
    assert {finding.name for finding in flagged} == {"Transformer/encoderblock_1/MlpBlock_0/Dense_1/kernel"}
    assert {finding.what for finding in flagged} >= {"change"}


def test_audit_wants_a_table():
    with pytest.raises(ValueError, match="audit wants a dualized config, not optax_name 'scale_by_adam'"):
        norm_audit.audit(settings.adamw(CONFIG))
