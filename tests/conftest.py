"""Tests run on the CPU: with libtpu installed JAX would first look for a TPU."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
