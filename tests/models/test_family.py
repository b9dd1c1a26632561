"""Another package's model with a record next to it has tables, training, muP, studies and audit like ours."""

import textwrap

import jax
import ml_collections
import numpy as np
import pytest

from big_vision_dual import models
from big_vision_dual.core import tables
from big_vision_dual.lab.studies import coord_check, grid, lr_transfer, norm_audit, settings, sweep
from big_vision_dual.lab.studies.results import Results
from big_vision_dual.models import family, init, mup, norm_trees
from big_vision_dual.train import loop, recipes

MODEL = """
    import jax
    from flax import linen as nn

    from big_vision_dual.core.norms import bonds
    from big_vision_dual.core.norms.module import IDENTITY
    from big_vision_dual.models.family import Blocks, Family, Mup, MupRow
    from big_vision_dual.models.init import scaled_orthogonal


    class Layer(nn.Module):
        layers: int

        @nn.compact
        def __call__(self, x):
            y = nn.Dense(x.shape[-1], use_bias=False, kernel_init=scaled_orthogonal, name="dense")(x)
            return (1 - 1 / self.layers) * x + nn.relu(y) / self.layers


    class Stream(nn.Module):
        num_classes: int
        units: int
        layers: int

        @nn.compact
        def __call__(self, images, *, train=False):
            del train
            dense = lambda n, name: nn.Dense(n, use_bias=False, kernel_init=scaled_orthogonal, name=name)
            x = dense(self.units, "stem")(images.reshape(len(images), -1))
            out = {"stem": x}
            for i in range(self.layers):
                x = out[f"layer{i}"] = Layer(self.layers, name=f"layer_{i}")(x)
            out["logits"] = dense(self.num_classes, "head")(x)
            return out["logits"], out


    def Model(num_classes, *, units, layers):
        return Stream(num_classes, units, layers)
"""
RECORD = """
    def tree(model, input_shape, num_classes, atoms, blocks_mass):
        units, layers = model["units"], model["layers"]
        inputs = input_shape[0] * input_shape[1] * input_shape[2]
        branch = bonds.RELU @ atoms.linear("layer_{layer}/dense/kernel", (units,), (units,))
        one = (1 - 1 / layers) * IDENTITY + (1 / layers) * branch
        blocks = (one**layers).tare(layers if blocks_mass is None else blocks_mass)
        stem = atoms.linear("stem/kernel", (inputs,), (units,))
        return atoms.linear("head/kernel", (units,), (num_classes,)) @ blocks @ stem


    def rows(model, base_width, rules):
        m = model["units"] / base_width
        return [
            MupRow("stem/kernel", "input", None),
            MupRow("layer_.*", "hidden", None, 1 / m, m),
            MupRow("head/kernel", "output", 0.0, 1 / m, m),
        ]


    def blocks(model, params, inputs):
        _, out = model.apply({"params": params}, inputs)
        count, layer = model.layers, Layer(model.layers)
        return Blocks(
            stem=("stem/kernel", out["stem"]),
            inputs=[out["stem"], *(out[f"layer{i}"] for i in range(count - 1))],
            first=[f"layer_{i}/dense/kernel" for i in range(count)],
            apply=lambda x, own: layer.apply({"params": own}, x),
            params=[params[f"layer_{i}"] for i in range(count)],
        )


    FAMILY = Family(width="units", depth="layers", norm_tree=tree, mup=Mup(rows), blocks=blocks)
"""
BASE = grid.replace(
    recipes.load("study_vit").to_dict(),
    {"model": {"units": 16, "layers": 2}, "total_steps": 3, "input.batch_size": 8, "lr": 0.1},
)


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """(base config with the record, base config of the same model without one)."""
    folder = tmp_path_factory.mktemp("site") / "strangers"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "stream.py").write_text(textwrap.dedent(MODEL) + textwrap.dedent(RECORD))
    (folder / "bare.py").write_text(textwrap.dedent(MODEL))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder.parent))
        yield {**BASE, "model_name": "strangers.stream"}, {**BASE, "model_name": "strangers.bare"}


def test_its_tree_is_its_table_and_it_trains(stranger):
    config = settings.dualize(stranger[0])
    table = norm_trees.table_for(config)
    assert [row.path for row in table.rows] == [
        "stem/kernel",
        "layer_0/dense/kernel",
        "layer_1/dense/kernel",
        "head/kernel",
    ]
    assert [row.target_norm for row in table.rows] == pytest.approx([1 / 4, 2 / 4, 2 / 4, 1 / 4])  # layers: gain 1/2
    measured = loop.fit(ml_collections.ConfigDict({**config, "evals": {}}))
    assert np.isfinite(measured["training_loss"])
    assert any(name.startswith("update_norm/") for name in measured)


def test_a_coordinate_check_and_a_sweep_scale_its_own_fields(stranger, tmp_path):
    results = Results(tmp_path / "r.jsonl")
    for setting in ("mup", "dualize"):
        trials = coord_check.trials(stranger[0], setting, "width", [8, 16], 0.1, seeds=2, steps=3)
        assert [trial.config["model"]["units"] for trial in trials] == [8, 8, 16, 16]
        slopes = coord_check.slopes(coord_check.run(trials, results), "width")
        assert {slope.module for slope in slopes} == {"stem", "layer0", "layer1", "logits"}
    trials = lr_transfer.trials(stranger[0], "dualize", "depth", [1, 2], [-5.0, -4.0, -3.0], seeds=2)
    records, _ = sweep.run(trials, results, quiet=True)
    assert all(record["result"]["finite"] for record in records)
    assert [curve.size for curve in lr_transfer.analyse(records, "dualize", "depth").curves] == [1, 2]


def test_its_blocks_are_audited(stranger):
    findings = norm_audit.audit(settings.dualize(stranger[0]), steps=2)
    assert [finding for finding in findings if finding.flagged] == []
    assert {finding.name for finding in findings if finding.what == "sensitivity"} == {"stem to logits", "block 0"}
    unknown = norm_audit.audit(settings.dualize(stranger[1]), steps=2)
    assert {finding.what for finding in unknown} == {"change", "growth"}


def test_its_mup_rows_are_followed(stranger):
    config = grid.replace(settings.mup(stranger[0]), {"model.units": 2 * settings.MUP_BASE_WIDTH})
    params = init.params(config, models.of(config))
    assert not np.any(params["head"]["kernel"])
    table = mup.for_config(config, params)
    assert {row.path: row.lr_mult for row in table.rows} == {
        "stem/kernel": 1.0, "layer_0/dense/kernel": 0.5, "layer_1/dense/kernel": 0.5, "head/kernel": 0.5
    }  # fmt: skip


def test_without_a_record_its_table_is_flat_for_optimizer_and_constraint_alike(stranger):
    bare = stranger[1]
    params = jax.eval_shape(lambda: init.params(bare, models.of(bare)))
    for config in (settings.dualize(bare), {**settings.adamw(bare), "weight_constraint": "project"}):
        assert norm_trees.table_for(config).rows == tables.flat(params).rows
    constrained = {**settings.adamw(bare), "weight_constraint": "project", "evals": {}}
    assert np.isfinite(loop.fit(ml_collections.ConfigDict(constrained))["training_loss"])


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (lambda bare: norm_trees.table_for(settings.dualize(bare, blocks_mass=3.0)), "no norm tree; give its module"),
        (lambda bare: mup.for_config(settings.mup(bare), {}), r"no muP rules for model_name 'strangers.bare'.*mup="),
        (lambda _: family.of("vit2"), "unknown model_name 'vit2'"),
    ],
)  # fmt: skip
def test_what_needs_a_record_says_so(stranger, what, message):
    with pytest.raises(ValueError, match=message):
        what(stranger[1])
