"""`fl-sim audit`: what the updates of somebody else's federation give away."""

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.cli.commands.invert import AttackName, Settings
from experiments.cli.console import AsJson, bars, messages, note
from fl_sim.config import ConfigError, Leakage, parse, read
from fl_sim.runs import RunFolder

if TYPE_CHECKING:
    from torch import Tensor

    from experiments.audit.judging import People


def audit(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="The folder given to AuditedStrategy.")],
    attack: AttackName = "user_diffusion",
    override: Settings = None,
    label: Annotated[str | None, typer.Option(help="Name of the results; the attack's by default.")] = None,
    rounds: Annotated[
        list[int] | None, typer.Option("--round", min=1, help="Attack only this round. Repeatable.")
    ] = None,
    photos: Annotated[
        Path | None, typer.Option(help="Private photos to compare with: one folder per user, PHOTOS/USER/*.png.")
    ] = None,
    embedder: Annotated[
        str | None,
        typer.Option(help="Recogniser of --photos: dlib, facenet, onnx, or synthetic (rendered faces)."),
    ] = None,
    embedder_path: Annotated[Path | None, typer.Option(help="Its weights, as leakage.embedder_path.")] = None,
    num_examples: Annotated[
        int | None, typer.Option(min=1, help="Photos of each user; where the replies do not say it.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Everything random follows from it.")] = 0,
    as_json: AsJson = False,
    with_private_photos: Annotated[
        bool, typer.Option("--with-private-photos", help="Embed photos of --photos in the report.")
    ] = False,
) -> None:
    """Attack the captures of somebody else's federation; leakage is measured where you have the private photos.

    For example: fl-sim audit audit/ --attack inverting_gradients -o steps=200
    """
    if photos is not None:
        _check_embedder_named(embedder)
    elif with_private_photos:
        raise ConfigError("--with-private-photos shows photos of --photos; give --photos with it")
    from attacker.capture.rebuild_index import rebuild_index
    from attacker.external import external_model
    from experiments.audit import audit as auditing
    from experiments.audit import judging, page
    from experiments.plan import acquaintance
    from experiments.run.prior_trial import doubts
    from experiments.statistics.verdict import NO_ATTACK
    from fl_sim.threads import one_thread

    run = RunFolder(folder)
    model = external_model.read(run)
    settings = read(None, override or [])
    chosen = external_model.open_attack(label or attack, {"name": attack, **settings})
    told: list[str] = []  # who reads the report should know it, too

    def tell(sentence: str) -> None:
        told.append(sentence)
        note(sentence)

    if (rebuilt := rebuild_index(run)) is not None:
        tell(rebuilt)
    for remark in auditing.remarks(run, rounds or []):
        tell(remark)
    captures = auditing.captured(run, rounds or [], num_examples)
    if embedder == "synthetic" and photos is not None:
        tell(f"--embedder synthetic: {acquaintance.UNSEEN}")
    if (warning := acquaintance.shipped_prior(chosen.needs.prior)) is not None:
        tell(warning)
    people = None  # read before the attacks, which take their time
    if photos is not None:
        users = sorted({user for _, user in captures.updates})
        people = _people(auditing.read_photos(photos, users, model.image_size), str(embedder), embedder_path)
    for sentence in doubts(chosen, model.image_size):
        tell(sentence)
    with one_thread(), bars() as progress:
        mode = auditing.mode_of(captures, model, seed)
        alone = auditing.control(captures, chosen, seed, mode)
        table = auditing.reconstruct(captures, model, chosen, seed, partial(progress, "updates"), mode)
        if alone is not None:
            auditing.reconstruct(captures, model, alone, seed, partial(progress, "prior only"), mode)
        leakage = None if people is None else judging.measure(run, people, seed)
        if leakage is not None:
            table = judging.beside(table, leakage, chosen.label)
        if (doubt := auditing.unexplained(table)) is not None:
            tell(doubt)
        assumed = [*([] if mode is None else [mode.sentence()]), *external_model.remarks(model)]
        training = captures.observation(*captures.updates[0]).local
        audit = page.Audit(run, model, training, seed, people, leakage, told, assumed)
        audited = page.read(audit)
        page.write(audit, audited, with_private_photos)
    judged = audited.judged
    if as_json:
        verdict = None if judged is None else judged.facts()
        updates = json.loads(table.to_json(orient="records"))
        print(json.dumps({"verdict": verdict, "updates": updates, "report": str(run.report)}))
    else:
        print(table.to_string(index=False, float_format="{:.3g}".format))
        if people is not None:
            print(NO_ATTACK if judged is None else judged.sentence())
    for sentence in assumed:
        messages.print(sentence, soft_wrap=True)
    if people is None:
        messages.print(page.UNMEASURED, soft_wrap=True)
    messages.print(f"report: {run.report}", soft_wrap=True)


def _check_embedder_named(embedder: str | None) -> None:
    """ConfigError where nobody said what judges the photos, which may be of any kind."""
    if embedder in (None, "auto"):
        raise ConfigError(
            "--photos without --embedder; give dlib, facenet, onnx (with --embedder-path) or synthetic (rendered faces)"
        )


def _people(photos: "dict[int, Tensor]", embedder: str, path: Path | None) -> "People":
    """The audited users by their private photos, and an embedder that was tried on them."""
    from experiments.audit.judging import People
    from experiments.evaluate.embedders import open_embedder
    from experiments.evaluate.recognition import check_embedder

    opened = open_embedder(parse(Leakage, {"embedder": embedder, "embedder_path": path}, "leakage"))
    check_embedder(opened, next(iter(photos.values()))[0], f"--embedder {embedder}")
    return People(photos, opened, embedder)
