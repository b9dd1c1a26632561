"""CIFAR-10: all 50,000 images, a ViT of patch 4 (64 tokens, width 48, depth 4), shifts and flips; 1 and 3 epochs.

1,000 training images are held out for tuning and for the target; the 10,000 test images are read once a run. Sized for
two CPU cores: an entry's 9 tuning trials and 10 final runs are 13,400 steps of batch 128, about an hour of a core.
"""

from big_vision_dual.lab.studies.grid import replace
from big_vision_dual.lab.track.rules import Budget, Track
from big_vision_dual.train import recipes

_RECIPE = recipes.load("cifar10_vit").to_dict()
_KEPT = ("num_classes", "input_shape", "loss", "model_name", "model", "lr", "wd")
_SIZE = {"model.width": 48, "model.mlp_dim": 192, "model.num_heads": 2}
EPOCH = 49_000 // 128

TRACK = Track(
    name="cifar10",
    version=2,
    base={
        **replace({name: _RECIPE[name] for name in _KEPT}, _SIZE),
        "input": {"data": {"name": "cifar10"}, "batch_size": 128, "accum_freq": 1, "augment": "shift(4)|flip_lr"},
    },
    budgets={"short": Budget(steps=EPOCH, trials=6), "long": Budget(steps=3 * EPOCH, trials=3)},
    train="train[:98%]",
    held_out="train[98%:]",
    test="test",
    tuning_seeds=(0,),
    final_seeds=(101, 102, 103, 104, 105),
    references=("adamw", "adamw_dual"),
    entries=("adamw", "adamw_dual", "muon_dual", "dualized"),
)
