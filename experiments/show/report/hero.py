"""The first screen of the report: the threat model in one line, and what the server draws of a few users.

The strip shows pictures that name as many users as the headline says. Of several that name as many, by attacks that
know the defenses, it shows single pictures of the headline's round, the most realistic. Where nothing is measured, it
shows what there is.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from experiments.evaluate.arms import PICTURES
from experiments.show.report.gallery import Gallery, Picture, Portrait, thinned
from experiments.show.report.measured import Measured
from experiments.show.report.run_data import RunData
from experiments.statistics.significance import Finding

FACES = 8  # users in the strip
CAVEAT = "These pictures are no evidence: this attack was not shown to tell more of the users than its controls."
UNMEASURED = "A realistic face is no evidence: a prior draws one for any update."
NOWHERE = (math.nan, math.nan)
Scores = Mapping[int, tuple[float, float]]  # by user: rank, facial similarity


@dataclass(frozen=True)
class Face:
    """One user of the strip: a private photo, where it may be shown, and what the server draws."""

    user: int
    photo: Picture | None
    drawn: Picture
    named: bool  # by the picture, where its attack names more users than guessing and the controls do
    label: str  # "named", "not named, rank 7"; the rank alone where naming does not exceed guessing; "": not measured


@dataclass(frozen=True)
class Hero:
    """What the first screen says beside the headline."""

    faces: list[Face]
    caption: str  # what drew the pictures, and which users are shown; empty without pictures
    caveat: str  # why the pictures are no evidence; empty where they are some


def hero(run_data: Measured, shown: Gallery) -> Hero:
    """Up to FACES users of the gallery, from the best to the worst recognised."""
    best = _strongest(run_data)
    if best is None:
        return _unmeasured(run_data, shown)
    scores = _scores(run_data, best)
    drawn = [(portrait, found) for portrait in shown.portraits if (found := _drawn(portrait, best)) is not None]
    drawn.sort(key=lambda pair: _recognised(scores, pair[0].user))
    faces = [_face(portrait, picture, scores, best.names) for portrait, picture in thinned(drawn, FACES)]
    if not faces:
        return Hero([], "", "")
    caveat = "" if best.names or best.resembles or best.reads_attributes else CAVEAT
    return Hero(faces, _caption(run_data, best, len(faces), len(drawn)), caveat)


def _unmeasured(run_data: Measured, shown: Gallery) -> Hero:
    """The first users, and what the first attack drew of each in the first round; nothing once it was measured."""
    if run_data.leakage is not None:
        return Hero([], "", "")
    attacks = [label for label in run_data.labels if label not in run_data.priors]
    drawn = [
        (portrait, strip)
        for portrait in shown.portraits
        for strip in portrait.strips
        if attacks and strip.label == attacks[0]
    ][:FACES]
    faces = [
        Face(one.user, one.photos[0] if one.photos else None, strip.pictures[0], False, "") for one, strip in drawn
    ]
    if not faces:
        return Hero([], "", "")
    caption = f"By {attacks[0]}, from one {run_data.update} of each."
    return Hero(faces, caption, UNMEASURED)


def threat_line(run_data: RunData) -> str:
    """Who attacks, what they see and know, on which model, and whose pictures, in one line."""
    config, stated = run_data.config, run_data.manifest.get("threat_model", {})
    stated = stated if isinstance(stated, dict) else {}
    server = "honest but curious" if config.threat_model.server == "honest_but_curious" else "actively malicious"
    together = int(stated.get("users_behind_an_update", 1) or 1)
    sees = f"sees only sums of {together} users" if together > 1 else "sees every update"
    if config.protocol.shuffle:
        sees += ", under pseudonyms"
    photographs = run_data.manifest.get("data", {}).get("photographs", config.dataset.name != "synthetic")
    faces = "photographs" if photographs else "synthetic faces"
    users = f"{config.dataset.users} user" + "s" * (config.dataset.users != 1)
    model = "trained model" if config.model.weights else "untrained model"
    return f"{server.capitalize()} server, {sees}, {_knows(run_data)}; {model}; {users}, {faces}."


def _knows(run_data: RunData) -> str:
    if not run_data.config.defenses:
        return "no defense"
    defenses = " and ".join(str(table.get("name", "?")) for table in run_data.config.defenses)
    told = any(finding.knowledge != "none" for finding in run_data.findings)
    return f"{'knows' if told else 'does not know'} the defense ({defenses})"


def _strongest(run_data: Measured) -> Finding | None:
    """The finding of one round, by a picture on the page, that names most.

    Where none tells more than its controls, those of the headline's attack. Ties go to who knows the defenses, to a
    single picture, to the round of the headline, and then to the picture in which a detector sees a face most surely.
    """
    told = None if run_data.judged is None else run_data.judged.strongest
    first = run_data.measured_rounds[0] if run_data.measured_rounds else None  # the gallery has its mean faces alone
    pictured = [
        finding
        for finding in run_data.findings
        if finding.server_round is not None
        and finding.arm in PICTURES
        and (finding.arm != "determined" or finding.server_round == first)
    ]

    if told is not None and not told.names:
        pictured = [finding for finding in pictured if finding.attack == told.attack] or pictured

    def strength(finding: Finding) -> tuple[bool, float, bool, bool, bool, float, float]:
        similarity = finding.similarity.mean if finding.similarity.known else -2.0
        seen = run_data.interval(finding.attack, finding.arm, "face_probability", finding.server_round)
        real = seen.mean if seen is not None and seen.known else 0.0
        share = finding.named / max(finding.users, 1)
        shown = finding.arm != "all_images", told is not None and finding.server_round == told.server_round
        return finding.names, share, finding.knowledge != "none", *shown, real, similarity

    return max(pictured, key=strength, default=None)


def _scores(run_data: Measured, best: Finding) -> Scores:
    """(rank, similarity) of each user by the arm that `best` is about; NaN where there is none."""
    rows = run_data.rows(best.attack, best.arm, best.server_round)
    scores = rows[["rank", "facial_similarity"]].astype("float64").itertuples(index=False)
    return {int(user): (score[0], score[1]) for user, score in zip(rows["user"], scores, strict=True)}


def _drawn(portrait: Portrait, best: Finding) -> Picture | None:
    """The user's picture that `best` judged; its first image where it judged all of them together."""
    for strip in portrait.strips:
        if strip.label == best.attack:
            if best.arm == "determined" and strip.drawn and strip.drawn.server_round == best.server_round:
                return strip.drawn.determined
            return next((image for image in strip.pictures if image.server_round == best.server_round), None)
    return None


def _recognised(scores: Scores, user: int) -> tuple[float, float]:
    """Sorts the best recognised user first, and last who has no rank."""
    rank, similarity = scores.get(user, NOWHERE)
    return (math.inf, 0.0) if math.isnan(rank) else (rank, -similarity)


def _face(portrait: Portrait, picture: Picture, scores: Scores, judged: bool) -> Face:
    rank, _ = scores.get(portrait.user, NOWHERE)
    said = "no rank" if math.isnan(rank) else f"rank {rank:.0f}"
    named = judged and rank == 1
    label = "named" if named else f"not named, {said}" if judged and rank > 1 else said
    return Face(portrait.user, portrait.photos[0] if portrait.photos else None, picture, named, label)


def _caption(run_data: Measured, best: Finding, faces: int, pictured: int) -> str:
    knows = ", which knows the defense," if best.knowledge != "none" else ""
    what = {"determined": "finds as the mean face", "all_images": "draws first"}.get(best.arm, "draws")
    who = f"All {faces} users" if faces == best.users else f"{faces} of {best.users} users"
    if faces < pictured < best.users:
        who = f"{faces} of the {pictured} users shown below"
    said = f"{who}, from the best to the worst recognised among {best.gallery} people, and what {best.attack}{knows} "
    said += f"{what} from one {run_data.update} of round {best.server_round}."
    return f"{said} They are judged by all images together." if best.arm == "all_images" else said
