# pyright: reportArgumentType=false
"""A linen, an nnx and a functions model on data of one's own: the same doors, verdicts and figures as ours."""

import pathlib
import re
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_dual import models
from big_vision_dual.cli.main import main
from big_vision_dual.core import tables
from big_vision_dual.lab.studies import coord_check, lr_transfer, settings, target_norms
from big_vision_dual.models import family, init, strangers
from big_vision_dual.train import losses, recipes

NETS = """
    import jax
    import jax.numpy as jnp
    from flax import linen as nn
    from flax import nnx


    class Linen(nn.Module):
        units: int
        classes: int = 3

        @nn.compact
        def __call__(self, x, deterministic):
            x = nn.relu(nn.Dense(self.units, name="up")(x))
            return nn.Dense(self.classes, name="head")(nn.Dropout(0.5, deterministic=deterministic)(x))


    class Nnx(nnx.Module):
        def __init__(self, units, num_classes, *, rngs):
            self.layers = nnx.List([nnx.Linear(4, units, rngs=rngs), nnx.Linear(units, units, rngs=rngs)])
            self.drop = nnx.Dropout(0.5, rngs=rngs)
            self.head = nnx.Linear(units, num_classes, rngs=rngs)

        def __call__(self, x):
            for layer in self.layers:
                x = nnx.relu(layer(x))
            return self.head(self.drop(x))


    def init(key, x, units, num_classes):
        up, head = jax.random.split(key)
        normal = jax.random.normal
        return {"up": normal(up, (x.shape[-1], units)) / 2, "head": normal(head, (units, num_classes))}


    def apply(params, x):
        hidden = jnp.tanh(x @ params["up"])
        return hidden @ params["head"] / hidden.shape[-1] ** 0.5, {"hidden": hidden}


    def make_linen(units, num_classes=3):
        return Linen(units, num_classes)


    class Normed(nn.Module):
        units: int = 4

        @nn.compact
        def __call__(self, x, train):
            return nn.Dense(3)(nn.BatchNorm(use_running_average=not train)(nn.Dense(self.units)(x)))


    class Nested(nn.Module):
        units: int = 4

        @nn.compact
        def __call__(self, x):
            return {"logits": nn.Dense(3)(x)}


    class Words(nn.Module):
        units: int = 4

        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(nn.Embed(9, self.units)(x).mean(axis=1))


    pair = (init, apply)
    ready = Linen(8)
    number = 3
"""
ALL = ("nets:Linen", "nets:Nnx", "nets", "nets:pair", "nets:make_linen")


@pytest.fixture(scope="module", autouse=True)
def site(tmp_path_factory):
    """A folder with strangers/nets.py, numbers.npz, (N, 4) numbers of 3 classes, and words.npz, indices."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "theirs").mkdir()
    for name in ("__init__.py", "empty.py"):
        (folder / "theirs" / name).touch()
    (folder / "theirs" / "nets.py").write_text(textwrap.dedent(NETS))
    rng = np.random.default_rng(0)
    labels = {f"{split}_label": np.arange(count) % 3 for split, count in (("train", 96), ("test", 24))}
    centres = rng.standard_normal((3, 4))
    numbers = {k.replace("label", "image"): centres[v] + rng.standard_normal((len(v), 4)) for k, v in labels.items()}
    words = {k.replace("label", "image"): rng.integers(0, 9, (len(v), 5)) for k, v in labels.items()}
    np.savez(folder / "numbers.npz", **labels, **numbers)
    np.savez(folder / "words.npz", **labels, **words)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", [str(folder), *sys.path])
        yield folder


def base(name, *overrides, data="numbers.npz"):
    return recipes.load(f"own_model:theirs.{name},{data}", [f"--config.{each}" for each in overrides]).to_dict()


@pytest.mark.parametrize("name", ALL)
def test_every_kind_has_parameters_logits_and_activations(name):
    config = base(name, "model.units=8")
    model = models.of(config)
    params = init.params(config, model)
    x = jnp.ones((5, 4))
    logits, _ = model.apply({"params": params}, x, train=False)
    (again, _), _ = model.apply({"params": params}, x, train=False, mutable=["intermediates"])
    np.testing.assert_array_equal(logits, again)
    assert logits.shape == (5, 3)
    recorded = coord_check.activations(family.of(config["model_name"]), model, params, x)
    inside = {"nets:Linen": "up", "nets:make_linen": "up", "nets:Nnx": "layers/1"}.get(name, "hidden")
    assert recorded[inside].shape == (5, 8)
    assert recorded["logits"].shape == (5, 3)
    tables.check(tables.flat(params), params)


@pytest.mark.parametrize("name", ["nets:Linen", "nets:Nnx"])
def test_dropout_is_on_in_training_alone_and_follows_its_key(name):
    config = base(name, "model.units=64")
    model = models.of(config)
    params, loss = init.params(config, model), losses.training(config, model)
    batch = {"image": jnp.ones((4, 4)), "labels": jnp.eye(4, 3)}
    first, second = loss(params, batch, jax.random.key(0)), loss(params, batch, jax.random.key(1))
    assert first != second
    assert first == loss(params, batch, jax.random.key(0))
    sure = [model.apply({"params": params}, batch["image"], train=False)[0] for _ in range(2)]
    np.testing.assert_array_equal(*sure)


@pytest.mark.parametrize("name", ["nets:Linen", "nets:Nnx", "nets"])
def test_parameters_are_the_argument_and_not_the_initial_ones(name):
    config = base(name, "model.units=8")
    model = models.of(config)
    params = jax.tree.map(jnp.zeros_like, init.params(config, model))
    assert not np.any(model.apply({"params": params}, jnp.ones((2, 4)), train=False)[0])


def given(name, *flags):
    return ["--model", f"theirs.{name}", "--data", "numbers.npz", "--config.input.batch_size=8", *flags]


@pytest.mark.parametrize("name", ["nets:Linen", "nets:Nnx"])
def test_a_coordinate_check_on_the_command_line(name, tmp_path, capsys):
    few = ["--axis", "units", "--sizes", "4,8", "--seeds", "2", "--steps", "3", "--settings", "dualize"]
    assert main(["coord-check", *given(name), *few, "--out", str(tmp_path)]) in (0, 1)
    assert "slope of log change against log units" in capsys.readouterr().out
    assert (tmp_path / "coord_change.png").read_bytes().startswith(b"\x89PNG")


def test_a_sweep_with_measured_tables_on_the_command_line(tmp_path, capsys):
    few = ["--axis", "units", "--sizes", "4,8", "--seeds", "1", "--config.total_steps=20", "--log2-lrs=-6:-4"]
    assert main(["lr-sweep", *given("nets"), *few, "--settings", "dualize_measured", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "lr_units.png").read_bytes().startswith(b"\x89PNG")
    assert "dualize_measured" in capsys.readouterr().out


def test_audits_on_the_command_line(capsys):
    own = [*given("nets:Nnx", "--config.model.units=8"), "--factor", "1e6"]
    assert main(["norms", "audit", *own, "--steps", "2"]) == 0
    assert "no sensitivity: theirs" in capsys.readouterr().out
    muon = ["--config.optax_name=big_vision_dual.muon", "--config.grad_clip_norm=None"]
    for optimizer in (["--setting", "adamw"], muon):
        assert main(["norms", "measure", *own, *optimizer, "--at", "1"]) == 0
        shown = capsys.readouterr().out
        assert "change of the output by update 2" in shown
        assert "layers/1/kernel" in shown


def test_the_document_studies_a_model_from_python(site, capsys):
    text = (pathlib.Path(__file__).parent.parent.parent / "docs" / "your_model.md").read_text()
    code = text.split("<!-- studies -->\n```python\n")[1].split("```")[0]
    exec(code.replace("nets:Net,mine.npz", "theirs.nets:Linen,numbers.npz"), {})
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()} >= {"up", "head", "Dropout_0", "logits"}
    assert (site / "coord.png").read_bytes().startswith(b"\x89PNG")


def test_a_table_is_measured_at_each_size():
    config = base("nets")
    made = {size: settings.apply("dualize_measured", lr_transfer.sized(config, "units", size)) for size in (4, 8)}
    found = {size: target_norms.table_for(each) for size, each in made.items()}
    assert {size: table.by_key()["up"].shape for size, table in found.items()} == {4: (4, 4), 8: (4, 8)}
    assert all(table.norms["conventions"] == "measured" for table in found.values())
    other = target_norms.table_for({**made[4], "lr": 0.3, "seed": 5})
    assert other == found[4]
    assert settings.default(config) == ["adamw", "dualize", "dualize_measured"]


def test_indices_reach_an_embedding():
    config = base("nets:Words", data="words.npz")
    assert init.input_dtype(config) == jnp.int32
    model = models.of(config)
    strangers.check(model, "theirs.nets:Words", config["input_shape"], init.input_dtype(config), 3)


@pytest.mark.parametrize(
    ("model", "flags", "message"),
    [
        ("theirs.nowhere:Net", [], "No module named 'theirs.nowhere'"),
        ("theirs.nets:Nett", [], "no attribute 'Nett'"),
        ("theirs.nets:number", [], "is a int without Model, or init and apply"),
        ("theirs.empty", [], "is a module without Model"),
        ("theirs.nets:Linen", [], r"needs \['units'\]"),
        ("theirs.nets:Linen", ["--config.model.width=3"], r"has \['width'\].*possible: classes, units"),
        ("theirs.nets", ["--config.model.width=3"], "possible: num_classes, units"),
        ("theirs.nets:ready", ["--config.model.units=3"], "instance and takes no config.model"),
        ("theirs.nets:Linen", ["--config.model.units=8", "--config.model.classes=4"], r"gives float32\[2, 4\]"),
        ("theirs.nets:Nested", [], "gives dict for a batch of 2"),
        ("theirs.nets:Normed", [], r"state besides its parameters \(batch_stats\)"),
        ("theirs.nets:Words", [], r"cannot be called with float32\[2, 4\]: ValueError: Input type must be an integer"),
    ],
)
def test_a_model_that_cannot_be_studied_is_named_before_work_starts(model, flags, message, capsys):
    assert main(["norms", "audit", "--model", model, "--data", "numbers.npz", *flags]) == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert re.search(message, shown), shown


def test_model_and_data_belong_together(capsys):
    assert main(["coord-check", "--model", "theirs.nets:Linen"]) == 2
    assert "--model and --data belong together" in capsys.readouterr().err
    assert main(["norms", "audit", "--model", "theirs.nets:Linen", "--data", "none.npz"]) == 2
    assert "no file" in capsys.readouterr().err
    assert main(["norms", "audit"]) == 2
    assert "nothing to study" in capsys.readouterr().err
