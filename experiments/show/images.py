"""Images as Pillow has them, and as contents of files."""

import base64
import io
from typing import Any

from PIL import Image
from torch import Tensor


def picture(image: Tensor) -> Image.Image:
    """An image (3, H, W) of bytes, as attacker.observation.pixels makes it."""
    return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())


def encoded(image: Image.Image, kind: str, **how: Any) -> bytes:
    """The content of a file of that kind; `how`: Pillow's options of it."""
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def data_uri(image: Image.Image, kind: str, **how: Any) -> str:
    """The same as an address that a page can hold."""
    return f"data:image/{kind.lower()};base64,{base64.b64encode(encoded(image, kind, **how)).decode()}"
