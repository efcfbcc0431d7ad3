"""Reading one photo: upright, RGB, cropped to a square, resized with antialiasing. Nothing else here reads photos."""

import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from fl_sim.config_errors import in_one_line

Crop = Callable[[Image.Image], Image.Image]


MOST_PIXELS = 64_000_000  # 200 MB as RGB, of which Pillow holds two or three copies


class UnreadableImage(ValueError):
    """A file that gives no photo; the message is the reason, without the path."""


def decode(source: Path | bytes) -> Image.Image:
    """The photo in a file, or in the bytes of one, as RGB, turned upright as its EXIF says.

    Grey images get three equal channels; 16-bit grey keeps its upper 8 bits; transparency is dropped. Of an
    animation the first frame is taken. Raises UnreadableImage, also for more than MOST_PIXELS: a small file may
    unpack to gigabytes.
    """
    try:
        with Image.open(source if isinstance(source, Path) else io.BytesIO(source)) as image:
            if image.width * image.height > MOST_PIXELS:
                raise UnreadableImage(f"{image.width} x {image.height} pixels, at most {MOST_PIXELS:,} are read")
            image.load()
            picture = ImageOps.exif_transpose(image)
            if picture.mode.startswith("I"):
                picture = picture.convert("I").point(lambda value: value / 256).convert("L")
            return picture.convert("RGB")
    except FileNotFoundError as error:
        raise UnreadableImage("no such file") from error
    except UnidentifiedImageError as error:
        raise UnreadableImage("not an image") from error
    except UnreadableImage:
        raise
    except Exception as error:  # Pillow's many readers raise anything on damaged and hostile files
        raise UnreadableImage(in_one_line(error, 200) or type(error).__name__) from error


def fit(photo: Image.Image, image_size: int, crop: Crop) -> Tensor:
    """A decoded photo, cropped and resized: uint8 (3, image_size, image_size). UnreadableImage of `crop`.

    Resizing is Pillow's bicubic, which widens its kernel when it shrinks (antialiasing).
    """
    picture = crop(photo).resize((image_size, image_size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()  # (3, s, s)


def fingerprint(photo: Image.Image) -> bytes:
    """What two decoded photos have in common if, and only if, all their pixels are equal: 32 bytes."""
    return hashlib.sha256(f"{photo.size}".encode() + photo.tobytes()).digest()


def centre_square(side: int | None = None) -> Crop:
    """A crop to the central square of `side` pixels, at most as large as the image (None: as large as it)."""

    def crop(image: Image.Image) -> Image.Image:
        width, height = image.size
        length = min(width, height) if side is None else min(width, height, side)
        left, top = (width - length) // 2, (height - length) // 2
        return image.crop((left, top, left + length, top + length))

    return crop
