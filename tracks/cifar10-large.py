"""CIFAR-10 for one GPU: a ViT-Ti/4 (64 tokens), mixup and RandAugment on the accelerator; 10 and 30 epochs.

Splits, seeds and entries are those of `cifar10`. An entry's 10 tuning trials and 10 final runs are about 38,000 steps
of batch 512.
"""

import dataclasses

from big_vision_dual.lab.studies.grid import replace
from big_vision_dual.lab.track import rules

_SMALL = rules.load("cifar10")
_VIT_TI = {"model.width": 192, "model.depth": 12, "model.mlp_dim": 768, "model.num_heads": 3}
_BATCH = 512
_INPUT = {"input.batch_size": _BATCH, "input.augment": "shift(4)|flip_lr|randaug(2,10)", "mixup": {"p": 0.2}}
EPOCH = 49_000 // _BATCH

TRACK = dataclasses.replace(
    _SMALL,
    name="cifar10-large",
    base=replace(_SMALL.base, {**_VIT_TI, **_INPUT}),
    budgets={"short": rules.Budget(steps=10 * EPOCH, trials=6), "long": rules.Budget(steps=30 * EPOCH, trials=4)},
)
