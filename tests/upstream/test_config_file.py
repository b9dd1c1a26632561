"""A config file of an upstream Big Vision runs in our trainer as it is: its names, its defaults, its helpers."""

from __future__ import annotations

import json
import shutil
from typing import Any

import numpy as np
import photos
import pytest

from big_vision_dual.train import changes, data, evaluate, recipes, run_files, schema, setup
from big_vision_dual.train.loop import fit

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
        ("config.input.post_filter_fn = lambda d: True", "config.input.post_filter_fn is not a field"),
        ("config.input.pack = ['image']", "config.input.pack is not a field"),
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


TRAINED = """
import big_vision.configs.common as bvcc

def get_config(arg=None):
  c = bvcc.parse_arg(arg, folder='', steps=6)
  lines = dict(name='bv:jsonl', fname=f'{c.folder}/lines.jsonl', fopen_keys={'image': c.folder})
  to_labels = 'onehot(3, key="label", key_result="labels")'
  pp = f'decode|resize(8)|value_range(-1, 1)|{to_labels}'
  c.input = dict(data=dict(all=1.0), keep_only=['image', 'labels'], batch_size=16)
  c.input['all'] = dict(data=lines, pp=pp, shuffle_buffer_size=100, cache_raw=True,
                        pre_filter_fn=lambda d: d['label'] < 3)
  c.pp_modules = ['ops_general', 'ops_image', 'archive.randaug']
  c.total_steps = c.steps
  c.num_classes = 3
  c.model_name = 'vit'
  c.model = dict(variant='mu/4', rep_size=True, pool_type='gap', posemb='sincos2d')
  c.grad_clip_norm = 1.0
  c.optax_name = 'scale_by_adam'
  c.optax = dict(mu_dtype='bfloat16')
  c.lr = 0.01
  c.wd = 0.0001
  c.lr_mults = [('head/.*', 2.0)]
  c.schedule = [('embedding/.*', None), ('.*', dict(warmup_steps=2, decay_type='cosine'))]
  c.mixup = dict(p=0.2, fold_in=None)
  c.log_training_steps = 2
  c.ckpt_steps = 3
  test = dict(data={**lines, 'stop': 10}, pp_fn=pp + '|keep("image", "labels")', log_steps=c.steps, cache='final_data')
  c.evals = {}
  c.evals.val = dict(type='classification', loss_name='sigmoid_xent', **test)
  c.evals.save_pred = dict(type='save', pred='predict', outfile='{workdir}/pred-{step:09d}.npz', **test)
  return c
"""


@pytest.fixture
def trained(config_file, tmp_path):
    """A config file whose data are lines of JSON that name images: three classes by colour, a fourth to leave out."""
    (config_file.parent / "common.py").write_text(
        "import ml_collections\ndef parse_arg(arg, **defaults):\n"
        "  given = dict(word.split('=') for word in arg.split(','))\n"
        "  typed = {k: type(v)(given.get(k, v)) for k, v in defaults.items()}\n"
        "  return ml_collections.ConfigDict(typed)\n"
    )
    config_file.write_text(TRAINED)
    rows = []
    for i, label in enumerate([0, 1, 2] * 10 + [3] * 6):
        image = np.zeros((9, 12, 3), np.uint8)
        image[..., label % 3] = 200 + i
        (tmp_path / f"{i}.png").write_bytes(photos.encode(image, "PNG"))
        rows.append({"image": f"{i}.png", "label": label, "caption": f"image {i}"})
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"{config_file}:folder={tmp_path}"


def test_it_trains_resumes_and_saves_unmodified(trained, tmp_path, caplog):
    workdir = tmp_path / "run"
    config = recipes.load(trained)
    assert "keeps folder, steps for itself" in caplog.text
    assert (config.loss, config.get("steps")) == ("sigmoid_xent", None)
    last = fit(config, workdir)
    assert last["val/acc@1"] > 0.5
    rows = run_files.rows(workdir)
    losses = [row["training_loss"] for row in rows if "training_loss" in row]
    assert losses[-1] < losses[0] - 0.3
    with np.load(workdir / "pred-000000006.npz") as saved:
        assert saved["inputs/image"].shape == (10, 8, 8, 3)
        right = saved["outputs/0"].argmax(1) == saved["inputs/labels"].argmax(1)
    assert np.mean(right) == pytest.approx(last["val/acc@1"])
    shutil.rmtree(workdir / run_files.CHECKPOINTS / "6")
    again = fit(recipes.load(trained), workdir)  # from step 3 on, with another object for its filter
    assert again["training_loss"] == last["training_loss"]
    assert again["epoch"] == last["epoch"]


def test_another_filter_is_another_config(trained, config_file):
    def plain():
        return changes.plain(recipes.load(trained))

    before = plain()
    assert changes.between(before, plain()) == ()
    config_file.write_text(TRAINED.replace("d['label'] < 3", "d['label'] < 2"))
    (change,) = changes.between(before, plain())
    assert (change.field, change.free) == ("input.all.pre_filter_fn", False)


def test_evaluate_saves_where_the_run_is(trained, tmp_path):
    workdir = tmp_path / "run"
    fit(recipes.load(trained, ["--config.evals={}"]), workdir)
    found = evaluate.evaluate(recipes.load(trained), workdir, ["save_pred"])
    assert (found.step, found.metrics) == (6, {})
    assert (workdir / "pred-000000006.npz").is_file()
