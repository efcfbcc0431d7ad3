"""Cutting the face out of a photo with MTCNN (Zhang et al. 2016) of facenet-pytorch, whose weights come with it."""

import torch
from PIL import Image

from clients.datasets.images import Crop, UnreadableImage, centre_square
from fl_sim.config import ConfigError, Dataset

_MARGIN = 1.3  # side of the crop relative to the longer side of the detected box, which ends at brows and chin


def crop_of(dataset: Dataset, side: int | None = None) -> Crop:
    """The crop that `dataset.align` asks for: around the face, or the central square of `side` pixels."""
    return face_crop() if dataset.align else centre_square(side)


def face_crop() -> Crop:
    """A crop to a square around the largest face; the square stays inside the image.

    The crop raises UnreadableImage where no face is found. ConfigError without facenet-pytorch.
    """
    try:
        from facenet_pytorch import MTCNN
    except ImportError as error:
        raise ConfigError(
            f"dataset.align needs facenet-pytorch ({error}); pip install facenet-pytorch==2.5.3, or align=false"
        ) from error
    detector = MTCNN(min_face_size=40, device=torch.device("cpu"))

    def crop(image: Image.Image) -> Image.Image:
        boxes, _ = detector.detect(image)  # largest first, (n, 4) pixels: left, top, right, bottom
        if boxes is None:
            raise UnreadableImage("MTCNN finds no face in it")
        left, top, right, bottom = map(float, boxes[0])
        side = min(round(_MARGIN * max(right - left, bottom - top)), *image.size)
        x = min(max(round((left + right - side) / 2), 0), image.width - side)
        y = min(max(round((top + bottom - side) / 2), 0), image.height - side)
        return image.crop((x, y, x + side, y + side))

    return crop
