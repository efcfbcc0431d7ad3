"""How sure MTCNN (Zhang et al. 2016) is of its surest face, by the networks and the cascade of facenet-pytorch.

The package cuts out and reduces candidate after candidate, a hundred and more a picture, and finds boxes and landmarks
that nobody asks for here. This cascade reduces all candidates at once and stops at their probabilities, which are the
package's own to the last bit.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LARGEST_SCALE = 12 / 20  # PNet looks at 12 pixels, MTCNN for faces of 20 and more
IN_A_SCALE, IN_ALL = 0.5, 0.7  # overlaps above which the less probable of two boxes is dropped


class Detector:
    """MTCNN with facenet-pytorch's defaults."""

    def __init__(self) -> None:
        from facenet_pytorch import MTCNN

        self._mtcnn: Any = MTCNN()
        for stage in (self._mtcnn.pnet, self._mtcnn.rnet, self._mtcnn.onet):
            for name, part in list(stage.named_children()):
                if isinstance(part, nn.MaxPool2d):
                    setattr(stage, name, _Pool(part))

    @torch.no_grad()
    def surest(self, picture: Tensor) -> float:
        """Of a picture (3, H, W), float32, of whole numbers from 0 to 255: in [0, 1], 0 where no face is found."""
        from facenet_pytorch.models.utils.detect_face import bbreg, rerec

        crops = Crops(picture)
        _, second, third = self._mtcnn.thresholds
        parts, boxes = crops.inside(self._proposals(picture))
        if not len(parts):
            return 0.0
        moves, probabilities = self._mtcnn.rnet(crops(parts, 24))
        passed = probabilities[:, 1] > second
        boxes = torch.cat([boxes[passed, :4], probabilities[passed, 1:]], dim=1)
        picked = _suppressed(boxes, IN_ALL)
        parts, _ = crops.inside(rerec(bbreg(boxes[picked], moves[passed][picked])))
        if not len(parts):
            return 0.0
        found = self._mtcnn.onet(crops(parts, 48))[2][:, 1]
        return max(found[found > third].tolist(), default=0.0)

    def _proposals(self, picture: Tensor) -> Tensor:
        """PNet's boxes (n, 5): left, top, right, bottom, probability."""
        from facenet_pytorch.models.utils.detect_face import generateBoundingBox, imresample, rerec

        height, width = picture.shape[1:]
        scale, found = LARGEST_SCALE, []
        while min(height, width) * scale >= 12:
            small = imresample(picture[None], (int(height * scale + 1), int(width * scale + 1)))
            moves, probabilities = self._mtcnn.pnet(_standard(small))
            boxes, _ = generateBoundingBox(moves, probabilities[:, 1], scale, self._mtcnn.thresholds[0])
            found.append(boxes[_suppressed(boxes, IN_A_SCALE)])
            scale *= self._mtcnn.factor
        boxes = torch.cat(found)
        boxes = boxes[_suppressed(boxes, IN_ALL)]
        sides = (boxes[:, 2:4] - boxes[:, :2]).repeat(1, 2)  # by which moves are measured
        squares: Tensor = rerec(torch.cat([boxes[:, :4] + boxes[:, 5:] * sides, boxes[:, 4:5]], dim=1))
        return squares


class Crops:
    """Parts of a picture, each reduced to the means of its cells, as torch's `adaptive_avg_pool2d` does it.

    Sums of whole numbers are exact, so that a table of sums from the corner gives those of all cells, to the last bit.
    """

    def __init__(self, picture: Tensor) -> None:
        self._height, self._width = picture.shape[1:]
        sums = picture.to(torch.int32).cumsum(1, dtype=torch.int32).cumsum(2, dtype=torch.int32)
        self._sums = F.pad(sums, (1, 0, 1, 0))  # (3, H + 1, W + 1)

    def inside(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """What of the `boxes` (n, 5) lies in the picture, (m, 4): first row, last, first column, last; and these boxes.

        Rows and columns are counted between pixels: the first is below the last, also of one pixel.
        """
        left, top, right, bottom = boxes[:, :4].trunc().long().unbind(1)
        rows = [top.clamp_min(1) - 1, bottom.clamp_max(self._height)]
        columns = [left.clamp_min(1) - 1, right.clamp_max(self._width)]
        some = (rows[1] > rows[0]) & (columns[1] > columns[0])
        return torch.stack([*rows, *columns], dim=1)[some], boxes[some]

    def __call__(self, parts: Tensor, size: int) -> Tensor:
        """`parts` as `inside` gives them, as inputs (n, 3, size, size) of a network."""
        above, below = _cells(parts[:, 0], parts[:, 1], size)
        before, behind = _cells(parts[:, 2], parts[:, 3], size)

        def corner(rows: Tensor, columns: Tensor) -> Tensor:
            return self._sums[:, rows[:, :, None], columns[:, None, :]]  # (3, n, size, size)

        sums = corner(below, behind) - corner(above, behind) - corner(below, before) + corner(above, before)
        means = sums.float() / (below - above)[:, :, None] / (behind - before)[:, None, :]
        return _standard(means.transpose(0, 1).contiguous())


def _cells(start: Tensor, end: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Where each of `size` cells between `start` and `end` (n,) begins and ends, (n, size) both; they may overlap."""
    at, length = torch.arange(size), (end - start)[:, None]
    return start[:, None] + at * length // size, start[:, None] - (-(at + 1) * length // size)


def _standard(pixels: Tensor) -> Tensor:
    return (pixels - 127.5) * 0.0078125


def _suppressed(boxes: Tensor, overlap: float) -> Tensor:
    """The places of the `boxes` that are left, the most probable first."""
    from torchvision.ops import nms

    picked: Tensor = nms(boxes[:, :4], boxes[:, 4], overlap)
    return picked


class _Pool(nn.Module):
    """A max pooling with the channels last, which torch vectorises: the same numbers in a sixth of the time."""

    def __init__(self, pool: nn.MaxPool2d) -> None:
        super().__init__()
        self._pool = pool

    def forward(self, x: Tensor) -> Tensor:
        pooled: Tensor = self._pool(x.contiguous(memory_format=torch.channels_last))
        return pooled.contiguous()


@lru_cache(maxsize=1)
def detector() -> Detector:
    """One for all who ask in this process."""
    return Detector()
