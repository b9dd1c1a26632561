"""ViT-S/16 on ImageNet-1k with AdamW: the baseline (arXiv 2205.01580, "Better plain ViT baselines").

Command: python -m big_vision_dual.train --config configs/vit_s16_i1k.py --workdir gs://BUCKET/vit_s16_i1k
Options: vit_s16_i1k.py:rep for a tanh layer before the head, as in Big Vision's own file; vit_s16_i1k.py:real_v2 to
         evaluate on ImageNet-ReaL and ImageNet-V2 too, which TFDS prepares beside ImageNet; both with a comma.
Expected: 76.5-76.9 % top-1 after 90 epochs, 6h30 on a TPU v3-8 (Big Vision's runs); not yet run here.
"""

import ml_collections
from ml_collections import config_dict

from big_vision_dual.train import recipes

OPTIONS = ("rep", "real_v2")


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """The recipe; every field can be changed by --config.FIELD=VALUE. arg: some of `OPTIONS`, commas between them."""
    options = [recipes.choice("vit_s16_i1k", word, OPTIONS) for word in arg.split(",") if word]
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.total_epochs = 90.0
    config.num_classes = 1000
    config.input_shape = (224, 224, 3)
    config.loss = "softmax_xent"

    config.model_name = "vit"
    config.model = dict(
        variant="S/16", pool_type="gap", posemb="sincos2d", rep_size="rep" in options, scaling="standard", scan=False,
        dtype_mm="float32", remat_policy="none",
    )  # fmt: skip

    data_dir = config_dict.placeholder(str)  # one reference: --config.input.data.data_dir sets all three
    to_labels = 'onehot(1000, key="label", key_result="labels")|keep("image", "labels")'
    pp_eval = f"decode|resize_small(256)|central_crop(224)|value_range(-1, 1)|{to_labels}"
    config.input = dict(
        data=dict(name="imagenet2012", split="train[:99%]", data_dir=data_dir),
        batch_size=1024,
        accum_freq=1,
        cache_raw=True,  # needs about 150 GB of memory over all hosts
        shuffle_buffer_size=250_000,
        pp=f"decode_jpeg_and_inception_crop(224)|flip_lr|randaug(2, 10)|value_range(-1, 1)|{to_labels}",
    )
    config.mixup = dict(p=0.2)

    config.grad_clip_norm = 1.0
    config.optax_name = "scale_by_adam"
    config.optax = dict(mu_dtype="bfloat16")
    config.lr = 1e-3
    config.wd = 1e-4
    config.schedule = dict(warmup_steps=10_000, decay_type="cosine")

    config.log_training_steps = 50
    config.ckpt_steps = 1000

    def evaluator(name: str, split: str, pp_fn: str = pp_eval) -> dict:
        data = dict(name=name, split=split, data_dir=data_dir)
        return dict(type="classification", pp_fn=pp_fn, loss_name="softmax_xent", log_epochs=1.0, data=data)

    config.evals = dict(minival=evaluator("imagenet2012", "train[99%:]"), val=evaluator("imagenet2012", "validation"))
    if "real_v2" in options:
        real = pp_eval.replace('key="label"', 'key="real_label"')
        config.evals.real = evaluator("imagenet2012_real", "validation", real)
        config.evals.v2 = evaluator("imagenet_v2", "test")
    config.wandb = dict(project="big_vision_dual")
    return config
