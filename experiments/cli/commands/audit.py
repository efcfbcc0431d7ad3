"""`fl-sim audit`: what the updates of somebody else's federation give away."""

import json
from pathlib import Path
from typing import Annotated

import typer

from experiments.cli.commands.invert import AttackName, Settings
from experiments.cli.console import AsJson, bars, messages, note
from fl_sim.config import ConfigError, Leakage, parse, read
from fl_sim.runs import RunFolder


def audit(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="The folder given to MaliciousServer.around.")],
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
        str | None, typer.Option(help="Face recogniser of --photos: facenet, onnx, or synthetic for rendered faces.")
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
    from experiments.evaluate.embedders import open_embedder
    from experiments.evaluate.recognition import check_embedder
    from experiments.plan import acquaintance
    from experiments.run.prior_trial import doubts
    from fl_sim.threads import one_thread

    run = RunFolder(folder)
    model = external_model.read(run)
    settings = read(None, override or [])
    chosen = external_model.open_attack(label or attack, {"name": attack, **settings})
    updates = auditing.captured(run, rounds or [])
    for remark in auditing.remarks(run, rounds or []):
        note(remark)
    known, judge = None, None
    if photos is not None and embedder in (None, "auto"):
        raise ConfigError(
            "--photos without --embedder; give facenet, onnx (with --embedder-path), or synthetic for rendered faces"
        )
    if photos is not None and embedder == "synthetic":
        note(f"--embedder synthetic: {acquaintance.UNSEEN}")
    if (told := acquaintance.shipped_prior(chosen.settings)) is not None:
        note(told)
    if photos is not None:  # before the attacks, which take their time
        known = auditing.read_photos(photos, sorted({user for _, user in updates}), model.image_size)
        judge = open_embedder(parse(Leakage, {"embedder": embedder, "embedder_path": embedder_path}, "leakage"))
        check_embedder(judge, next(iter(known.values()))[0], f"--embedder {embedder}")
    for sentence in doubts([chosen], model.image_size):
        note(sentence)
    with one_thread(), bars() as progress:
        mode = auditing.mode_of(run, model, updates, seed, num_examples)
        table = auditing.reconstruct(
            run, model, chosen, updates, seed, lambda done, total: progress("updates", done, total), num_examples, mode
        )
        if known is not None and judge is not None:
            table = auditing.measure(run, chosen.label, table, known, judge)
    page = auditing.sheet(run, chosen.label, table, known)
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
    if known is None:
        messages.print("leakage was not measured, which takes the private photos: --photos PHOTOS/USER/*.png")
