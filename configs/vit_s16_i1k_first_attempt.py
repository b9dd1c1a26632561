"""The first public dualized ViT-S/16 as its code has it, kept to be reproduced: it severely underperforms.

Command: python -m big_vision_dual.train --config configs/vit_s16_i1k_first_attempt.py
         --workdir gs://BUCKET/vit_s16_i1k_first_attempt
Expected: l2_params grows to 50x the baseline's (its author's report of a run with wd 1e-4); not yet run here.
docs/first_attempt.md lists what differs from vit_s16_i1k_dual, and what each difference does.
"""

import ml_collections

from big_vision_dual.train import recipes


def get_config() -> ml_collections.ConfigDict:
    """Our recipe with that code's table, model, hyperparameters and input."""
    config = recipes.load("vit_s16_i1k_dual")
    data_dir = config.input.data.get_ref("data_dir")
    to_labels = 'onehot(1000, key="label", key_result="labels")|keep("image", "labels")'
    with config.unlocked():
        del config.model["scaling"]  # a name there, switches here
        config.model.scaling = dict(
            gelu="unit", attention_logits="inverse", attention_out=1 / 3, attention_out_at="output",
            residual="convex", init="dual",
        )  # fmt: skip
        config.model.head_zeroinit = True
        config.norms = dict(conventions="first_attempt")
        config.lr = 0.05
        config.wd = 0.005  # of a first run: .0001
        config.weight_constraint = None
        config.optax = dict(momentum=0.95, nesterov=False, polar="newton_schulz_6", dtype="float32")
        config.schedule = dict(warmup_steps=0, decay_type="cosine")
        config.mixup = dict(p=0.2)
        config.input = dict(
            data=dict(name="imagenet2012", split="train", data_dir=data_dir),
            batch_size=1024,
            accum_freq=8,
            cache_raw=True,
            shuffle_buffer_size=150_000,
            pp="decode_jpeg_and_inception_crop(224, area_min=20, antialias=True, precise=True)|flip_lr|randaug(2, 10)"
            f"|value_range(-1, 1)|{to_labels}",
        )
        config.evals = dict(
            val=dict(
                type="classification", loss_name="softmax_xent", log_steps=2500,
                pp_fn="decode(precise=True)|resize_small(256, antialias=True)|central_crop(224)|value_range(-1, 1)"
                f"|{to_labels}",
                data=dict(name="imagenet2012", split="validation", data_dir=data_dir),
            )
        )  # fmt: skip
    return config
