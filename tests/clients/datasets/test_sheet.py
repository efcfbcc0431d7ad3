import numpy as np

from clients.datasets.contact_sheet import draw_sheet
from clients.datasets.synthetic import SyntheticFaces


def test_a_sheet_shows_the_photos_pixel_for_pixel() -> None:
    faces = SyntheticFaces(users=2, photos=3, image_size=32, task="smile", seed=0)
    sheet = np.asarray(draw_sheet(faces, users=5, photos=3))
    assert sheet.shape[1] == 3 * (128 + 4) + 4
    photo = (faces.user(0).private.photos[1] * 255).round().byte().permute(1, 2, 0).numpy()
    left, top = 4 + 132, 4 + 18
    assert (sheet[top : top + 128 : 4, left : left + 128 : 4] == photo).all()
    assert sheet.shape[0] == 2 * (18 + 128 + 14 + 4) + 4  # as many rows as there are users
    assert (sheet[4:20] < 128).any()  # the line that names the user
