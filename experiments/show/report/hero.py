"""The first screen of the report: the threat model in one line, and what the server draws of a few users.

The strip shows the picture that the headline counts: by the attack that names most users; of several that name as
many, by one that knows the defenses.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from experiments.show.report.gallery import Gallery, Picture, Portrait
from experiments.show.report.material import Material
from experiments.statistics.significance import PICTURES, Finding

FACES = 8  # users in the strip
CAVEAT = "These pictures are no evidence: this attack was not shown to tell more of the users than its controls."
NOWHERE = (math.nan, math.nan)
Scores = Mapping[int, tuple[float, float]]  # by user: rank, facial similarity


@dataclass(frozen=True)
class Face:
    """One user of the strip: a private photo, where it may be shown, and what the server draws."""

    user: int
    photo: Picture | None
    drawn: Picture
    named: bool  # by the picture, where its attack names more users than guessing and the controls do
    label: str  # "named", "not named, rank 7", or the rank alone where naming does not exceed guessing


@dataclass(frozen=True)
class Hero:
    """What the first screen says beside the headline."""

    threat: str  # the threat model in one line
    faces: list[Face]
    caption: str  # what drew the pictures, and which users are shown; empty without pictures
    caveat: str  # why the pictures are no evidence; empty where they are some


def hero(material: Material, shown: Gallery) -> Hero:
    """The threat model of a run, and up to FACES users of its gallery, from the best to the worst recognised."""
    threat = threat_line(material)
    best = _strongest(material)
    if best is None:
        return Hero(threat, [], "", "")
    scores = _scores(material, best)
    drawn = [(portrait, found) for portrait in shown.portraits if (found := _drawn(portrait, best)) is not None]
    drawn.sort(key=lambda pair: _recognised(scores, pair[0].user))
    faces = [_face(portrait, picture, scores, best.names) for portrait, picture in _spread(drawn)]
    if not faces:
        return Hero(threat, [], "", "")
    caveat = "" if best.names or best.resembles or best.reads_attributes else CAVEAT
    return Hero(threat, faces, _caption(material, best, len(faces), len(drawn)), caveat)


def threat_line(material: Material) -> str:
    """Who attacks, what they see and know, on which model, and whose pictures, in one line."""
    config, stated = material.config, material.manifest.get("threat_model", {})
    stated = stated if isinstance(stated, dict) else {}
    server = "honest but curious" if config.threat_model.server == "honest_but_curious" else "actively malicious"
    together = int(stated.get("users_behind_an_update", 1) or 1)
    sees = f"sees only sums of {together} users" if together > 1 else "sees every update"
    if config.protocol.shuffle:
        sees += ", under pseudonyms"
    photographs = material.manifest.get("data", {}).get("photographs", config.dataset.name != "synthetic")
    faces = "photographs" if photographs else "synthetic faces"
    users = f"{config.dataset.users} user" + "s" * (config.dataset.users != 1)
    model = "trained model" if config.model.weights else "untrained model"
    return f"{server.capitalize()} server, {sees}, {_knows(material)}; {model}; {users}, {faces}."


def _knows(material: Material) -> str:
    if not material.config.defenses:
        return "no defense"
    defenses = " and ".join(str(table.get("name", "?")) for table in material.config.defenses)
    told = any(one.knowledge != "none" for one in material.findings)
    return f"{'knows' if told else 'does not know'} the defense ({defenses})"


def _strongest(material: Material) -> Finding | None:
    """The finding of one round, by a picture on the page, that names most; ties go to who knows the defenses."""
    pictured = [
        one
        for one in material.findings
        if one.arm in PICTURES
        and one.server_round is not None
        and (one.arm != "determined" or one.server_round == material.measured_rounds[0])  # the gallery has no others
    ]

    def strength(one: Finding) -> tuple[bool, float, bool, float]:
        similarity = one.similarity["mean"]
        return (
            one.names,
            one.named / max(one.users, 1),
            one.knowledge != "none",
            -2.0 if similarity is None else similarity,
        )

    return max(pictured, key=strength, default=None)


def _scores(material: Material, best: Finding) -> Scores:
    """(rank, similarity) of each user by the arm that `best` is about; NaN where there is none."""
    rows = material.rows(best.attack, best.arm, best.server_round)
    scores = rows[["rank", "facial_similarity"]].astype("float64").itertuples(index=False)
    return {int(user): (score[0], score[1]) for user, score in zip(rows["user"], scores, strict=True)}


def _drawn(portrait: Portrait, best: Finding) -> Picture | None:
    """The user's picture that `best` judged; its first image where it judged all of them together."""
    for strip in portrait.strips:
        if strip.label == best.attack:
            if best.arm == "determined" and strip.drawn and strip.drawn.server_round == best.server_round:
                return strip.drawn.determined
            return next((one for one in strip.pictures if one.server_round == best.server_round), None)
    return None


def _recognised(scores: Scores, user: int) -> tuple[float, float]:
    """Sorts the best recognised user first, and last who has no rank."""
    rank, similarity = scores.get(user, NOWHERE)
    return (math.inf, 0.0) if math.isnan(rank) else (rank, -similarity)


def _spread(ordered: Sequence[tuple[Portrait, Picture]]) -> list[tuple[Portrait, Picture]]:
    """Up to FACES of them at even distances, the first and the last among them."""
    if len(ordered) <= FACES:
        return list(ordered)
    return [ordered[round(i * (len(ordered) - 1) / (FACES - 1))] for i in range(FACES)]


def _face(portrait: Portrait, picture: Picture, scores: Scores, judged: bool) -> Face:
    rank, _ = scores.get(portrait.user, NOWHERE)
    said = "no rank" if math.isnan(rank) else f"rank {rank:.0f}"
    named = judged and rank == 1
    label = "named" if named else f"not named, {said}" if judged and rank > 1 else said
    return Face(portrait.user, portrait.photos[0] if portrait.photos else None, picture, named, label)


def _caption(material: Material, best: Finding, faces: int, pictured: int) -> str:
    knows = ", which knows the defense," if best.knowledge != "none" else ""
    what = {"determined": "finds as the mean face", "all_images": "draws first"}.get(best.arm, "draws")
    update = "gradient" if material.config.federation.update == "gradient" else "weight update"
    who = f"All {faces} users" if faces == pictured == best.users else f"{faces} of {best.users} users"
    if pictured < best.users:
        who += f", out of the {pictured} shown below"
    said = f"{who}, from the best to the worst recognised among {best.gallery} people, and what {best.attack}{knows} "
    said += f"{what} from one {update} of round {best.server_round}."
    return f"{said} They are judged by all images together." if best.arm == "all_images" else said
