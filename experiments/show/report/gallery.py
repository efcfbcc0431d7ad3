"""The gallery: per user, what the person is and what the server made of each update."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from markupsafe import Markup
from safetensors import SafetensorError
from torch import Tensor

from attacker.capture.store import read_attack_table, read_reconstruction
from attacker.observation import Reconstruction, pixels
from experiments.evaluate import draws
from experiments.show import images
from experiments.show.report import svg
from experiments.show.report.captions import NO_EVIDENCE, class_name, heading, shared
from experiments.show.report.figures import series_of
from experiments.show.report.films import Film, film
from experiments.show.report.measured import Measured, reconstructed_users
from experiments.show.report.private_photos import PrivatePhotos

USERS = 24  # shown
PHOTOS = 6  # private photos shown a user
ROUNDS = 8  # shown, spread over all measured ones
DRAWS = 12  # shown beside the answer

T = TypeVar("T")


@dataclass(frozen=True)
class Picture:
    """An image with its caption."""

    source: str  # data URI of a PNG
    alt: str
    caption: str
    rank: str  # "rank 1", or ""
    similarity: str  # "0.52", or ""
    hit: bool  # the user was named
    server_round: int = 0  # 0 of a picture that belongs to no round


@dataclass(frozen=True)
class Drawn:
    """What one update leaves open, of the first round that is shown."""

    server_round: int
    count: int  # draws, the answer among them
    determined: Picture | None  # the mean face behind the draws
    others: list[Picture]  # draws but the answer
    heat: Picture | None  # where the draws differ; None of a single one


@dataclass(frozen=True)
class Strip:
    """The reconstructions of one attack, a picture a round."""

    label: str
    swatch: Markup
    control: bool
    pictures: list[Picture]
    films: list[Film]  # of those pictures whose attack kept frames
    drawn: Drawn | None
    said: str  # a sentence: what the pictures are evidence of; empty where no prior drew them


@dataclass(frozen=True)
class Trait:
    """One attribute of a user: what is true, and (value, `5 of 8 draws`, right?) by each attack."""

    name: str
    true: str
    inferred: list[tuple[str, str, bool]]


@dataclass(frozen=True)
class Portrait:
    """One user of the gallery."""

    user: int
    alike: str  # "0.52 to 0.96", the range of similarity between two private photos, or ""
    photos: list[Picture]
    mean: Picture | None
    strips: list[Strip]
    traits: list[Trait]


@dataclass(frozen=True)
class Gallery:
    """The users shown, and what is left out."""

    portraits: list[Portrait]
    attacks: list[tuple[str, Markup]]  # columns of the traits
    trait_round: int | None  # the round that the inferred attributes are of
    photos_of: int  # private photos a user has
    notes: list[str]  # sentences

    @property
    def draws(self) -> bool:
        """Whether an attack shows what an update leaves open."""
        return any(strip.drawn for portrait in self.portraits for strip in portrait.strips)

    @property
    def films(self) -> bool:
        """Whether an attack kept frames of its inversions."""
        return any(strip.films for portrait in self.portraits for strip in portrait.strips)


def gallery(run_data: Measured, private: PrivatePhotos) -> Gallery:
    """The first users with their private photos, where those may be shown, and every attack's pictures."""
    users = _users(run_data)
    notes = []
    if len(users) > USERS:
        notes.append(
            f"The first {USERS} users are shown; {len(users) - USERS} more were measured and are in every number."
        )
    rounds = thinned(_rounds(run_data), ROUNDS)
    if len(rounds) < len(_rounds(run_data)):
        notes.append(f"{len(rounds)} of {len(_rounds(run_data))} rounds are shown.")
    portraits, photos_of = [], 0
    for user in users[:USERS]:
        photos, mean, own = [], None, private.of(user)
        if own is not None:
            photos_of = max(photos_of, len(own))
            photos = [_picture(photo, f"private photo {i + 1} of user {user}") for i, photo in enumerate(own[:PHOTOS])]
            mean = _picture(own.mean(0), f"mean of the {len(own)} private photos of user {user}", f"mean of {len(own)}")
        strips, traits = _strips(run_data, user, rounds), _traits(run_data, user)
        portraits.append(Portrait(user, _alike(run_data, user), photos, mean, strips, traits))
    columns = [(label, svg.swatch(series)) for label, series in series_of(run_data).items()]
    first = run_data.measured_rounds[0] if run_data.measured_rounds else None
    return Gallery(portraits, columns, first, photos_of, [*notes, *private.notes])


def data_uri(photo: Tensor) -> str:
    """A PNG data URI of an image (3, H, W) in [0, 1], as `pixels` makes it."""
    return images.data_uri(images.picture(pixels(photo)), "PNG", optimize=True)


def _strips(run_data: Measured, user: int, rounds: list[int]) -> list[Strip]:
    strips = []
    series = series_of(run_data)
    for label in sorted(run_data.labels, key=lambda label: label in run_data.priors):
        pictures, films, drawn, prior = [], [], None, False
        for server_round in rounds:
            try:
                capture = sender(run_data.row(label, server_round, user), user)
                reconstruction = read_reconstruction(run_data.run, label, server_round, capture)
                table = read_attack_table(run_data.run, label, server_round, capture) or {}
                prior = prior or ("prior" in table and "draws" not in table)  # who may draw is known by its draws
            except (OSError, ValueError, KeyError, SafetensorError):
                continue  # not attacked (yet), or the file is damaged: the place stays empty
            pictures.append(_scored(run_data, reconstruction.images[0], label, server_round, user))
            films.append(film(reconstruction, f"of user {user} by {label} in round {server_round}", server_round))
            drawn = drawn or _drawn(run_data, reconstruction, label, server_round, user)
        if pictures:
            control = label in run_data.priors and label not in run_data.attacks
            swatch = svg.swatch(0, "mark control") if control else svg.swatch(series.get(label, 0))
            said = "" if control or not (prior or drawn) else NO_EVIDENCE
            if said and run_data.leaks(label):
                said = shared(drawn.count) if drawn else ""
            strips.append(Strip(label, swatch, control, pictures, [one for one in films if one], drawn, said))
    return strips


def _drawn(
    run_data: Measured, reconstruction: Reconstruction, label: str, server_round: int, user: int
) -> Drawn | None:
    if reconstruction.draws is None or not bool(reconstruction.draws.isfinite().all()):
        return None
    count, of = len(reconstruction.draws), f"of user {user} by {label} in round {server_round}"
    others = [
        _picture(draw, f"another of the {count} draws {of}", f"draw {number}")
        for number, draw in enumerate(draws.others(reconstruction)[:DRAWS], 2)
    ]
    most, least = draws.most_and_least(reconstruction.draws)
    differ = f"where the {count} draws {of} differ: most in the {most}, least in the {least}; "
    differ += f"{svg.number(draws.spread(reconstruction.draws))} on average, where black and white differ by 1"
    heat = _picture(draws.heat(reconstruction.draws), differ) if count > 1 else None
    determined = None
    if reconstruction.determined is not None:
        determined = _scored(run_data, reconstruction.determined, label, server_round, user, "determined")
    return Drawn(server_round, count, determined, others, heat)


def _scored(
    run_data: Measured, image: Tensor, label: str, server_round: int, user: int, arm: str = "attack"
) -> Picture:
    row = run_data.row(label, server_round, user, arm)
    rank, similarity = _value(row, "rank"), _value(row, "facial_similarity")
    rank_caption = f"rank {rank:.0f}" if math.isfinite(rank) else ""
    said = svg.number(similarity) if math.isfinite(similarity) else ""
    what, caption = "reconstruction", f"round {server_round}"
    if arm == "determined":
        what, caption = "mean face that the update determines,", "determined"
    alt = f"{what} of user {user} by {label} in round {server_round}"
    alt += f", {rank_caption}, similarity {said}" if rank_caption else ""
    return Picture(data_uri(image), alt, caption, rank_caption, said, rank == 1, server_round)


def _alike(run_data: Measured, user: int) -> str:
    if run_data.leakage is None or "in_batch_min" not in run_data.leakage:
        return ""
    rows = run_data.leakage[run_data.leakage["user"] == user]
    ends = [float(rows[column].iloc[0]) for column in ("in_batch_min", "in_batch_max")] if len(rows) else []
    return " to ".join(svg.number(end) for end in ends) if ends and math.isfinite(ends[0]) else ""


def _traits(run_data: Measured, user: int) -> list[Trait]:
    traits = []
    first = run_data.measured_rounds[0] if run_data.measured_rounds else 0
    for attribute in run_data.attribute_names:
        inferred, true = [], math.nan
        for label in run_data.attacks:
            row = run_data.row(label, first, user)
            true = _value(row, f"attr_{attribute}_true") if math.isnan(true) else true
            guess = _value(row, f"attr_{attribute}_inferred")
            share, count = _value(row, f"attr_{attribute}_share"), _value(row, "draws")
            # Without evidence of a leak, draws agree on what the prior says, or a flaw of the mean face.
            told = math.isfinite(share * count) and count > 1 and run_data.leaks(label)
            agree = f"{share * count:.0f} of {count:.0f} draws" if told else ""
            behind = _value(run_data.row(label, first, user, "determined"), f"attr_{attribute}_inferred")
            if told and math.isfinite(behind) and behind != guess:
                agree += f"; their mean: {_class_name(run_data, attribute, behind)}"
            inferred.append((_class_name(run_data, attribute, guess), agree, guess == true))
        traits.append(Trait(heading(attribute), _class_name(run_data, attribute, true), inferred))
    return traits


def _class_name(run_data: Measured, attribute: str, value: float) -> str:
    assert run_data.leakage is not None  # there are attributes
    columns = [f"attr_{attribute}_true", f"attr_{attribute}_inferred"]
    largest = max(float(run_data.leakage[column].max()) for column in columns if column in run_data.leakage)
    return class_name(attribute, value, largest, run_data.synthetic)


def sender(row: Mapping[str, Any], user: int) -> int:
    """Under which number the update behind a row of the leakage table was captured: if it does not say, the user's."""
    captured = _value(row, "capture")
    return int(captured) if math.isfinite(captured) else user


def _value(row: Mapping[str, Any], column: str) -> float:
    value = row.get(column)
    try:
        return math.nan if value is None else float(value)
    except TypeError:  # pandas.NA
        return math.nan


def _picture(photo: Tensor, alt: str, caption: str = "") -> Picture:
    return Picture(data_uri(photo), alt, caption, "", "", False)


def _users(run_data: Measured) -> list[int]:
    if run_data.leakage is not None:
        return sorted(int(user) for user in run_data.leakage["user"].unique())
    return reconstructed_users(run_data.run) or list(range(run_data.users))


def _rounds(run_data: Measured) -> list[int]:
    rounds = {int(path.name.split("-")[1]) for path in run_data.run.reconstructions.glob("*/round-*")}
    return sorted(rounds | set(run_data.measured_rounds))


def thinned(ordered: Sequence[T], most: int) -> list[T]:
    """Up to so many at even distances, the first and the last among them."""
    if len(ordered) <= most:
        return list(ordered)
    return [ordered[round(i * (len(ordered) - 1) / (most - 1))] for i in range(most)]
