"""A track that takes seconds: a ViT of width 8 on MNIST digits, four steps."""

from big_vision_dual.lab.studies.grid import replace
from big_vision_dual.lab.track.entries import Entry
from big_vision_dual.lab.track.rules import Budget, Track
from big_vision_dual.lab.track.space import octaves
from big_vision_dual.train import recipes

_DEMO = recipes.load("mnist5k_vit").to_dict()
_KEPT = ("num_classes", "input_shape", "loss", "model_name", "model", "input", "lr", "wd")
_SMALL = {
    "model.width": 8, "model.depth": 1, "model.num_heads": 2, "model.mlp_dim": 8, "input.batch_size": 4,
    "schedule": {"decay_type": "cosine"}, "optax_name": "scale_by_adam", "optax": {}, "grad_clip_norm": None,
}  # fmt: skip

TRACK = Track(
    name="tiny",
    version=1,
    base=replace({name: _DEMO[name] for name in _KEPT}, _SMALL),
    budgets={"short": Budget(steps=4, trials=3), "long": Budget(steps=6, trials=2)},
    train="train[:90%]",
    held_out="train[90%:]",
    test="test",
    tuning_seeds=(0,),
    final_seeds=(1, 2),
    references=("adam",),
    entries=(),
    points=2,
)


def adam(base):
    return Entry(base, {"lr": octaves(-9)})


def diverges(base):
    return Entry(replace(base, {"optax_name": "trace", "optax": {"decay": 0.9}}), {"lr": octaves(120)})


def unknown_field(base):
    return Entry(base, {"lr": octaves(-9), "optaxx.b1": octaves(-1)})


def takes_more_steps(base):
    return Entry(replace(base, {"input.batch_size": 8}), {"lr": octaves(-9)})
