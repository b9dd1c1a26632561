"""TensorFlow, imported without its start-up log and kept off the accelerators, which belong to JAX.

Everything in `pp` and `data` that needs TensorFlow takes it from here, so that no import order leaks a
GPU or TPU context.
"""

import os
from typing import Any

if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1") == "1":  # 1 is what importing JAX sets, no user's choice
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # read once, when the C++ library is loaded

import tensorflow

tf: Any = tensorflow  # its stubs lack half of what it has
Tensor = Any
Dataset = Any

for _kind in ("GPU", "TPU"):
    tf.config.set_visible_devices([], _kind)


def said(error: Exception) -> str:
    """The first line of an error of TensorFlow, without where in its graph it happened."""
    text = str(error).partition("\n")[0].partition(" [Op:")[0]
    return text.rpartition("}} ")[2].strip() or type(error).__name__


__all__ = ["Dataset", "Tensor", "said", "tf"]
