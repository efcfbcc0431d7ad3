"""How a picture came about: frames that an attack kept of its inversion, side by side in one image."""

from dataclasses import dataclass

from attacker.observation import Reconstruction, pixels
from experiments.show import images

QUALITY = 85  # of the JPEG; frames are shown one at a time, beside the answer as a PNG


@dataclass(frozen=True)
class Film:
    """What the answer of one update was on its way to what is shown."""

    source: str  # data URI of a JPEG, the frames from left to right
    what: str  # each frame is: "mean face of user 3 by user_diffusion in round 1"
    after: str  # percent of the steps after which, with spaces between
    server_round: int

    @property
    def alt(self) -> str:
        """What a reader without the script sees."""
        return f"{self.what} after {self.after.replace(' ', ', ')} percent of the steps"


def film(made: Reconstruction, of: str, server_round: int) -> Film | None:
    """The frames but those that are shown themselves; `of`: "of user 3 by dlg in round 1". None where none are left."""
    if made.frames is None:
        return None
    last = len(made.frames) - 1
    # Where a photo is drawn given the mean face, the frames are of that face, and the photo comes after all of them.
    frames, what = (made.frames[:-1], "picture") if made.determined is None else (made.frames, "mean face")
    if not len(frames):
        return None
    after = " ".join(f"{100 * place / last:.0f}" if last else "100" for place in range(len(frames)))
    strip = pixels(frames).permute(1, 2, 0, 3).flatten(2, 3)  # (3, H, frames * W)
    source = images.data_uri(images.picture(strip), "JPEG", quality=QUALITY, subsampling=0)
    return Film(source, f"{what} {of}", after, server_round)
