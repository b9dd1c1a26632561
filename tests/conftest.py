"""Tests run on the CPU (with libtpu installed JAX would first look for a TPU), and compile more than they compute."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# 40 % of the suite's processor time went into LLVM's passes over programs that run once.
_QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
os.environ["XLA_FLAGS"] = f"{_QUICK} {os.environ.get('XLA_FLAGS', '')}".strip()
