"""CIFAR-10: all 50,000 images, a ViT of patch 4 (64 tokens, width 64, depth 4), shifts and flips; 2 and 6 epochs.

1,000 training images are held out for tuning and for the target; the 10,000 test images are read once a run. Sized for
two CPU cores: an entry's 12 tuning trials and 10 final runs are about 26,000 steps of batch 128.
"""

from big_vision_dual.lab.studies.grid import replace
from big_vision_dual.lab.track.rules import Budget, Track
from big_vision_dual.train import recipes

_RECIPE = recipes.load("cifar10_vit").to_dict()
_KEPT = ("num_classes", "input_shape", "loss", "model_name", "model", "lr", "wd")
_SIZE = {"model.width": 64, "model.mlp_dim": 256, "model.num_heads": 4}
EPOCH = 49_000 // 128

TRACK = Track(
    name="cifar10",
    version=1,
    base={
        **replace({name: _RECIPE[name] for name in _KEPT}, _SIZE),
        "input": {"data": {"name": "cifar10"}, "batch_size": 128, "accum_freq": 1, "augment": "shift(4)|flip_lr"},
    },
    budgets={"short": Budget(steps=2 * EPOCH, trials=7), "long": Budget(steps=6 * EPOCH, trials=4)},
    train="train[:98%]",
    held_out="train[98%:]",
    test="test",
    tuning_seeds=(0,),
    final_seeds=(101, 102, 103, 104, 105),
    references=("adamw", "adamw_dual"),
    entries=("adamw", "adamw_dual", "muon", "muon_dual", "dualized", "nadamw_dual"),
)
