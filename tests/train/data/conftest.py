import pytest
import tiny_tfds


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """data_dir of the data set `tiny`."""
    return tiny_tfds.write(tmp_path_factory.mktemp("tfds"))
