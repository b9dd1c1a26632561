"""A config file of an upstream Big Vision runs in our trainer as it is: its names, its defaults, its helpers."""

from __future__ import annotations

from typing import Any

import pytest

from big_vision_dual.train import data, recipes, schema, setup

CONFIG = """
import ml_collections as mlc
import big_vision.configs.helpers as helpers

def get_config(arg=None):
  config = mlc.ConfigDict()
  config.total_epochs = 2
  config.num_classes = 10
  config.input = {}
  config.input.data = dict(name='mnist5k', split='train')
  config.input.batch_size = helpers.SIZE
  config.input.num_parallel_calls = 20
  config.pp_modules = ['ops_general', 'ops_image', 'ops_text', 'archive.randaug']
  config.prefetch_to_device = 2
  config.model_name = 'mlp'
  config.model = dict(width=8, depth=1)
  config.grad_clip_norm = 1.0
  config.optax_name = 'scale_by_adam'
  config.optax = dict(mu_dtype='bfloat16')
  config.lr = 0.001
  config.wd = 0.0001
  config.lr_mults = [('head/.*', 0.1)]
  config.schedule = dict(warmup_steps=10, decay_type='cosine')
  config.mixup = dict(p=0.2, fold_in=None)
  common = dict(type='classification', data=dict(name='mnist5k', split='test'), loss_name='sigmoid_xent', log_steps=25)
  config.evals = {}
  config.evals.final = dict(**common, cache='final_data', prefetch=0)
  config.evals.older = dict(**common, cache_raw=True, cache_final=False)
  config.evals.plain = dict(**common)
  return config
"""


@pytest.fixture
def config_file(tmp_path):
    folder = tmp_path / "clone" / "big_vision" / "configs"
    folder.mkdir(parents=True)
    (folder / "helpers.py").write_text("SIZE = 64\n")
    (folder / "mine.py").write_text(CONFIG)
    return folder / "mine.py"


def test_it_is_prepared_unmodified(config_file):
    run = setup.prepare(recipes.load(str(config_file), ["--config.lr=0.01"]))
    config: Any = run.config
    assert (config.lr, config.loss, config.input_shape) == (0.01, "sigmoid_xent", (28, 28, 1))
    assert (run.total_steps, config.mixup.to_dict()) == (125, {"p": 0.2})
    assert {name: spec.get("cache") for name, spec in config.evals.items()} == {
        "final": "final", "older": "raw", "plain": None,
    }  # fmt: skip


def test_only_its_own_files_have_its_default_loss(config_file, tmp_path):
    ours = tmp_path / "mine.py"
    ours.write_text(CONFIG.replace("helpers.SIZE", "64").replace("import big_vision.configs.helpers as helpers", ""))
    assert "loss" not in recipes.load(str(ours))
    (tmp_path / "importing.py").write_text("from big_vision.configs.mine import get_config\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(config_file.parents[2]))
        assert recipes.load(str(tmp_path / "importing.py")).loss == "sigmoid_xent"


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("config.grad_clip_per_example = 1.0", "config.grad_clip_per_example is not a field"),
        ("config.mixup.fold_in = 3", "config.mixup.fold_in is not a field"),
        ("config.input.keep_only = ['image']", "config.input.keep_only is not a field"),
    ],
)
def test_what_would_change_the_result_and_is_not_here_is_refused(config_file, line, named):
    config_file.write_text(CONFIG.replace("  config.evals = {}\n", f"  {line}\n  config.evals = {{}}\n"))
    with pytest.raises(schema.ConfigError, match=named):
        recipes.load(str(config_file))


def test_an_input_shape_that_the_data_leave_open_is_asked_for():
    class Open:
        def shapes(self):
            return {"image": (None, None, 3), "labels": (10,)}

    with pytest.raises(data.DataError, match=r"--config.input_shape='\(H, W, C\)'"):
        data.input_shape(Open())  # type: ignore[arg-type]
