import io

import numpy as np
import photos
import pytest
from PIL import Image


@pytest.fixture(scope="module", params=photos.FILES)
def jpeg(request):
    """A JPEG file."""
    return photos.FILES[request.param]()


@pytest.fixture(scope="module")
def photo(jpeg):
    """The same as uint8 pixels, decoded by PIL, at most 200 x 200."""
    image = Image.open(io.BytesIO(jpeg)).convert("RGB")
    image.thumbnail((200, 200))
    return np.asarray(image)
