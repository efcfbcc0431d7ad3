"""The report of an audit: the page of a run, about somebody else's federation."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from attacker.capture.store import CaptureStore
from attacker.external.external_model import ExternalModel
from attacker.observation import LocalTraining
from experiments.audit.judging import People
from experiments.evaluate.reconstructions import find_reconstructions
from experiments.show.report.about import About, Facts
from experiments.show.report.measured import Measured, reconstructed_users
from experiments.show.report.page import render
from experiments.show.report.private_photos import PrivatePhotos, left_out
from experiments.show.report.tables import call, plural
from experiments.statistics.significance import findings
from experiments.statistics.verdict import Verdict, verdict
from fl_sim.runs import RunFolder, machine, versions, write_atomically

UNMEASURED = (
    "Leakage was not measured, which takes the users' private photos: "
    "fl-sim audit RUN --photos PHOTOS --embedder dlib, facenet, onnx or synthetic."
)
UNTRIED = (
    "Whether the face recogniser names these users by a real photo is not known, which takes two photos or more of "
    "each: that it names nobody does not mean that nothing leaks."
)
WITH_PHOTOS = "fl-sim audit RUN --photos PHOTOS --with-private-photos"


@dataclass(frozen=True, kw_only=True)
class Audited(Measured):
    """A federation of somebody else, read."""

    settings: Mapping[str, Mapping[str, Any]]  # the table of each attack, by label

    @property
    def judged(self) -> Verdict | None:
        """Never that nothing leaks: an app may defend its updates without telling its server."""
        judged = verdict(self.findings)
        if judged is not None and judged.kind == "nothing":
            return verdict(self.findings, ("that the app may have",))
        return judged


@dataclass(frozen=True)
class Audit:
    """What was audited, and how."""

    run: RunFolder
    model: ExternalModel
    training: LocalTraining | None  # of the users, as far as it is known
    seed: int
    people: People | None  # None: nobody's photos are known
    leakage: pd.DataFrame | None  # None: not measured
    doubts: Sequence[str]  # clauses: what must be known beside the verdict
    assumed: Sequence[str]  # clauses: what was assumed of app and updates


def read(audit: Audit) -> Audited:
    """The data of the page."""
    run, leakage, store = audit.run, audit.leakage, CaptureStore(audit.run)
    found = find_reconstructions(run, {number: store.users(number) for number in store.finished_rounds()})
    users = len(reconstructed_users(run) if audit.people is None else audit.people.photos)
    return Audited(
        run=run,
        name=run.name,
        update="weight update",
        synthetic=False,
        planned=(),
        users=users,
        people=users,
        rounds=None,
        leakage=leakage,
        findings=[] if leakage is None else findings(leakage),
        rejected=[dict(row) for row in store.rejected()],
        labels=list(found.settings),
        priors=frozenset(found.priors),
        missing=[*_limits(audit.people), *map(_sentence, audit.doubts)],
        settings=found.settings,
    )


def write(audit: Audit, audited: Audited, with_private_photos: bool = False) -> None:
    """Write `report.html` into the folder; with private photos only if asked, whoever they are of."""
    private = left_out(WITH_PHOTOS)
    if audit.people is None:
        private = PrivatePhotos(lambda user: None, [])
    elif with_private_photos:
        private = PrivatePhotos(audit.people.photos.get, [])
    write_atomically(audit.run.report, render(audited, _about(audit, audited), private).encode())


def _limits(people: People | None) -> list[str]:
    """What photos of so few people can show, a sentence each."""
    if people is None:
        return [UNMEASURED]
    users = len(people.photos)
    among = (
        f"The {users} users are looked for among each other, since there are photos of nobody else: guessing names 1 "
        f"of {users}. Among more people fewer would be named."
    )
    return [among] if people.apart else [among, UNTRIED]


def _about(audit: Audit, audited: Audited) -> About:
    return About(
        kind="Audit of a federation",
        stamps=[f"folder {audit.run.name}", f"seed {audit.seed}", time.strftime("%Y-%m-%d")],
        threat=(
            "Honest but curious server, sees every update, is told of no defense; "
            f"{audit.model.model}, as the app trains it; {plural(audited.users, 'user')}."
        ),
        setup=_setup(audit, audited),
        threat_model=_threat_model(audit),
        config_text=audit.run.audit.read_text(encoding="utf-8"),
        versions=[*versions().items(), ("machine", machine())],
        compared_by="by their photos, without the one set apart",
        mean_of="the other users",
        untrained="What its rounds came to is in the app's own log.",
    )


def _setup(audit: Audit, audited: Audited) -> Facts:
    model, store = audit.model, CaptureStore(audit.run)
    rounds = store.finished_rounds()
    loss = "cross-entropy" if model.loss is None else model.loss
    rows = [
        ("Model", f"{model.model}, images of {model.image_size} by {model.image_size} px, loss {loss}"),
        ("Rounds", f"{', '.join(map(str, rounds))} captured; each reply reached the app's strategy as it came"),
        ("Update", f"the weights after local training: {_training(audit.training)}"),
        ("Attacks", "; ".join(call(_own(table), label) for label, table in audited.settings.items())),
    ]
    if audit.people is not None:
        counts = sorted(len(own) for own in audit.people.photos.values())
        photos = f"{counts[0]}" if counts[0] == counts[-1] else f"{counts[0]} to {counts[-1]}"
        faces = f"{photos} photos of each of {len(counts)} users, by the auditor"
        judged = f"embedder {audit.people.judge}; gallery of the {audited.gallery_size} users themselves"
        rows += [("Faces", faces), ("Measured with", judged)]
    return [*rows, ("Seed", str(audit.seed))]


def _own(table: Mapping[str, Any]) -> dict[str, Any]:
    """The table of an attack, without what is the same for all of them."""
    return {key: value for key, value in table.items() if key != "seed"}


def _training(training: LocalTraining | None) -> str:
    if training is None:
        return "not known, taken for one step"
    photos = f"{training.batch_size} photos" if training.batch_size else "all photos"
    return (
        f"SGD, {plural(training.epochs, 'epoch')}, {photos} a step, learning rate {training.learning_rate:g}, "
        "as the audit was told"
    )


def _threat_model(audit: Audit) -> Facts:
    """What the attacker is and knows, and what had to be assumed."""
    return [
        ("Attacker", "the server: honest in training, curious about every update it receives"),
        ("Sees", "each user's own update in every captured round, not only their sum"),
        ("Knows", "the model as sent, how users train, how many photos are behind an update"),
        ("Labels", "not told; the attack reads their proportions off the update"),
        (
            "Of the defenses",
            "not told: the attack takes an update for what plain training gives. Where clients clip, add noise or "
            "change their photos, an attack that knows it may name more: give fl-sim run the federation as a config",
        ),
        ("Never sees", "any private photo, nor another photo of the same person"),
        *(("Assumed", _sentence(clause)) for clause in audit.assumed),
    ]


def _sentence(clause: str) -> str:
    return f"{clause[:1].upper()}{clause[1:].rstrip('.')}."
