"""A sheet of a dataset's users as one picture: a row a user, a column a private photo, labels in small print."""

from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from clients.user import FaceDataset

_PHOTO = 128  # pixels on the sheet, at least
_GAP = 4
_HEADER = 18  # pixels of the line above each row
_CAPTION = 14  # pixels below each photo
_LISTED = 8  # attributes named per user


def draw_sheet(dataset: FaceDataset, users: int = 8, photos: int = 8) -> Image.Image:
    """The first `photos` private photos of the first `users` users (fewer where there are fewer).

    Small photos are enlarged by a whole factor without smoothing, so that every pixel can be seen.
    """
    side = dataset.image_size * -(-_PHOTO // dataset.image_size)
    rows = [dataset.user(partition) for partition in range(min(users, dataset.num_users))]
    height = _HEADER + side + _CAPTION + _GAP
    sheet = Image.new("RGB", (photos * (side + _GAP) + _GAP, len(rows) * height + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(11)
    for row, user in enumerate(rows):
        top = _GAP + row * height
        facts = _facts(user.private.attributes)
        draw.text((_GAP, top), f"user {user.partition}  ({user.identity})  {facts}", fill="black", font=font)
        shown = zip(user.private.photos[:photos], user.private.labels[:photos].tolist(), strict=True)
        for column, (photo, label) in enumerate(shown):
            pixels = (photo * 255).round().byte().permute(1, 2, 0).numpy()  # (s, s, 3)
            picture = Image.fromarray(np.ascontiguousarray(pixels)).resize((side, side), Image.Resampling.NEAREST)
            left = _GAP + column * (side + _GAP)
            sheet.paste(picture, (left, top + _HEADER))
            draw.text((left, top + _HEADER + side + 1), f"label {label}", fill="gray", font=font)
    return sheet


def _facts(attributes: Mapping[str, int]) -> str:
    """Attributes that hold, by name, with their value where it is more than one."""
    told = [name if value == 1 else f"{name} {value}" for name, value in attributes.items() if value]
    return ", ".join(told[:_LISTED]) + (", ..." if len(told) > _LISTED else "")
