import importlib.util

import pytest


@pytest.fixture(scope="session")
def libtpu():
    """Skips where the TPU compiler is not installed."""
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu, the TPU compiler, is not installed: pip install 'big_vision_dual[preflight]'")
