"""A small Mamba language model over bytes, AdamW in the standard parametrization.

Command: python -m big_vision_dual.train --config configs/mamba_bytes.py:FILE --workdir runs/mamba_bytes
         FILE: any text, or tfds:NAME, a text set of TFDS (--config.input.data.data_dir and evals.val.data.data_dir say
         where); without one, the topics of Python's own `help()`, which every installation has.
Sample:  bvd sample runs/mamba_bytes --prompt "The " --length 200
Expected: not yet run at full length (1000 steps).
"""

import importlib.util

import ml_collections
from ml_collections import config_dict

LENGTH = 128


def get_config(path: str = "") -> ml_collections.ConfigDict:
    """The recipe; path: the text, of which the last tenth is held out."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.total_steps = 1000
    config.num_classes = 256
    config.input_shape = (LENGTH,)
    config.loss = "softmax_xent"

    config.model_name = "mamba"
    config.model = dict(d_model=64, n_layers=2, d_state=16, scaling="standard")
    data = dict(name="bytes", path=path or _python_topics(), length=LENGTH, validation=0.1)
    if path.startswith("tfds:"):
        data["data_dir"] = config_dict.placeholder(str)
    config.input = dict(data=dict(data, split="train"), batch_size=16, accum_freq=1)

    config.grad_clip_norm = 1.0
    config.optax_name = "scale_by_adam"
    config.optax = dict(b2=0.95)
    config.lr = 4e-3
    config.wd = 1e-4
    config.schedule = dict(warmup_percent=0.1, decay_type="cosine")

    config.log_training_steps = 50
    config.ckpt_steps = 500
    config.evals = dict(val=dict(type="language", data=dict(data, split="validation"), batch_size=64, log_steps=250))
    config.wandb = None
    return config


def _python_topics() -> str:
    spec = importlib.util.find_spec("pydoc_data.topics")
    return spec.origin if spec and spec.origin else ""
