import io

import numpy as np
import photos
import pytest
from PIL import Image


@pytest.fixture(scope="module", params=["synthetic", "real0", "real1"])
def jpeg(request):
    """JPEG files: one made here, and two of ImageNet where ../shared is."""
    return photos.load(request.param)


@pytest.fixture(scope="module")
def photo(jpeg):
    """The same as uint8 pixels, decoded by PIL, at most 200 x 200."""
    image = Image.open(io.BytesIO(jpeg)).convert("RGB")
    image.thumbnail((200, 200))
    return np.asarray(image)
