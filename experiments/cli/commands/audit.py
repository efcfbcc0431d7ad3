"""`fl-sim audit`: what the updates of somebody else's federation give away."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.cli.commands.invert import AttackName, Settings
from experiments.cli.console import AsJson, bars, messages, note
from fl_sim.config import ConfigError, Leakage, parse, read
from fl_sim.runs import RunFolder

if TYPE_CHECKING:
    from torch import Tensor

    from experiments.evaluate.embedders import Embedder


def audit(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="The folder given to AuditedStrategy.")],
    attack: AttackName = "user_diffusion",
    override: Settings = None,
    label: Annotated[str | None, typer.Option(help="Name of the results; the attack's by default.")] = None,
    rounds: Annotated[
        list[int] | None, typer.Option("--round", min=1, help="Attack only this round. Repeatable.")
    ] = None,
    photos: Annotated[
        Path | None, typer.Option(help="Private photos to compare with: a folder a user, PHOTOS/USER/*.png.")
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
) -> None:
    """Attack the captures of somebody else's federation; leakage is measured where you have the private photos.

    For example: fl-sim audit audit/ --attack inverting_gradients -o steps=200
    """
    from attacker.external import external_model
    from experiments.audit import audit as auditing
    from experiments.plan import acquaintance
    from experiments.run.prior_trial import doubts
    from fl_sim.threads import one_thread

    run = RunFolder(folder)
    model = external_model.read(run)
    settings = read(None, override or [])
    chosen = external_model.open_attack(label or attack, {"name": attack, **settings})
    for remark in auditing.remarks(run, rounds or []):
        note(remark)
    captures = auditing.captured(run, rounds or [], num_examples)
    if photos is not None:
        _check_embedder_named(embedder)
    if (warning := acquaintance.shipped_prior(chosen.needs.prior)) is not None:
        note(warning)
    truth = None  # read before the attacks, which take their time
    if photos is not None:
        users = sorted({user for _, user in captures.updates})
        truth = _truth(auditing.read_photos(photos, users, model.image_size), embedder, embedder_path)
    for sentence in doubts([chosen], model.image_size):
        note(sentence)
    with one_thread(), bars() as progress:
        mode = auditing.mode_of(captures, model, seed)
        table = auditing.reconstruct(
            captures, model, chosen, seed, lambda done, total: progress("updates", done, total), mode
        )
        if truth is not None:
            table = auditing.measure(run, chosen.label, table, *truth)
    page = auditing.sheet(run, chosen.label, table, None if truth is None else truth[0])
    if as_json:
        print(json.dumps(json.loads(table.to_json(orient="records"))))
    else:
        print(table.to_string(index=False, float_format="{:.3g}".format))
    if (doubt := auditing.unexplained(table)) is not None:
        note(doubt)
    messages.print(f"pictures: {page}", soft_wrap=True)
    if (drawn := auditing.draws_sheet(run, chosen.label, table)) is not None:
        note(
            f"what each update determines, and what was drawn: {drawn}. Where the draws differ, they do not settle it. "
            "A realistic face is no evidence: the prior draws one for any update"
        )
    for sentence in [*([] if mode is None else [mode.sentence()]), *external_model.remarks(model)]:
        messages.print(sentence, soft_wrap=True)
    if truth is None:
        messages.print("leakage was not measured, which takes the private photos: --photos PHOTOS/USER/*.png")


def _check_embedder_named(embedder: str | None) -> None:
    """ConfigError where nobody said what judges the photos, which may be of any kind."""
    from experiments.plan import acquaintance

    if embedder in (None, "auto"):
        raise ConfigError(
            "--photos without --embedder; give dlib, facenet, onnx (with --embedder-path) or synthetic (rendered faces)"
        )
    if embedder == "synthetic":
        note(f"--embedder synthetic: {acquaintance.UNSEEN}")


def _truth(
    photos: "dict[int, Tensor]", embedder: str | None, path: Path | None
) -> "tuple[dict[int, Tensor], Embedder]":
    """The private photos by user, and an embedder that was tried on them."""
    from experiments.evaluate.embedders import open_embedder
    from experiments.evaluate.recognition import check_embedder

    opened = open_embedder(parse(Leakage, {"embedder": embedder, "embedder_path": path}, "leakage"))
    check_embedder(opened, next(iter(photos.values()))[0], f"--embedder {embedder}")
    return photos, opened
