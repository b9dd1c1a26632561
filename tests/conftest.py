"""Tests run on the CPU (with libtpu installed JAX would first look for a TPU), and compile more than they compute."""

import atexit
import importlib.metadata
import os
import shutil
import tempfile

_QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
if importlib.metadata.version("jaxlib").startswith("0.10."):  # later ones lack these, and compile faster
    _QUICK += " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = f"{_QUICK} {os.environ.get('XLA_FLAGS', '')}".strip()
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # workers, and the processes that tests start, find it set
    programs = tempfile.mkdtemp(prefix="bvd_test_programs_")
    atexit.register(shutil.rmtree, programs, ignore_errors=True)
    os.environ |= {"JAX_COMPILATION_CACHE_DIR": programs, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2"}
