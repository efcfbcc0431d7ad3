"""`fl-sim invert`: one update that came from anywhere, without a federation."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from experiments.cli.console import AsJson, bars, messages, note
from fl_sim.config import ConfigError, read

if TYPE_CHECKING:
    from attacker.observation import LocalTraining

AttackName = Annotated[str, typer.Option("--attack", help="Name of the attack, or package.module.")]
Settings = Annotated[
    list[str] | None, typer.Option("-o", "--override", metavar="KEY=VALUE", help="A setting of the attack. Repeatable.")
]


of_update = partial(typer.Option, rich_help_panel="The update")
of_model = partial(typer.Option, rich_help_panel="The model")


def invert(
    update: Annotated[Path, of_update(help="Safetensors or .pth: the gradient, or the new weights.")],
    weights: Annotated[Path, of_update(help="Safetensors or .pth: the state dict that the user started from.")],
    model: Annotated[
        str, of_model(metavar="PACKAGE.MODULE:FACTORY", help="What makes the model, called without arguments.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the pictures and reconstruction.json.")],
    kind: Annotated[Literal["gradient", "weights"], of_update(help="What the update is.")] = "gradient",
    learning_rate: Annotated[float | None, of_update(help="Of the user's steps; needed for weights.")] = None,
    local_epochs: Annotated[int, of_update(min=1, help="Passes of the user over its photos.")] = 1,
    batch_size: Annotated[int, of_update(min=0, help="Photos per step; 0: all.")] = 0,
    num_examples: Annotated[int | None, of_update(min=1, help="Photos behind the update.")] = None,
    labels: Annotated[
        str | None, of_update(help="Labels of the photos, such as 0:18,1:12 or 4; else they are recovered.")
    ] = None,
    loss: Annotated[str | None, of_model(help="package.module:name of the loss; cross-entropy by default.")] = None,
    image_size: Annotated[int, of_model(min=8, help="Pixels that the model takes.")] = 64,
    mean: Annotated[str, of_model(help="Subtracted from images in [0, 1], then ...")] = "0.5,0.5,0.5",
    std: Annotated[str, of_model(help="... divided by this: the app's Normalize.")] = "0.5,0.5,0.5",
    attack: AttackName = "user_diffusion",
    override: Settings = None,
    seed: Annotated[int, typer.Option(min=0, help="Everything random follows from it.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Invert one update that came from anywhere, with no federation at all: pictures of its user.

    For example: fl-sim invert --update g.safetensors --weights w.safetensors --model task:Net
    --num-examples 30 --out pictures
    """
    from attacker.external import external_model
    from experiments.audit import inversion
    from experiments.plan import acquaintance
    from experiments.run.prior_trial import doubts

    known = None if labels is None else _labels(labels)
    files = inversion.UpdateFiles(
        update,
        weights,
        kind,
        _num_examples(num_examples, known),
        known,
        _training(learning_rate, local_epochs, batch_size),
    )
    external = external_model.ExternalModel(
        model, image_size, loss, _scale(mean, "mean"), _scale(std, "std"), str(Path.cwd())
    )
    chosen = external_model.open_attack(attack, read(None, override or []))
    if chosen.needs.rounds > 1:
        raise ConfigError(
            f"attack {chosen.name!r} fuses {chosen.needs.rounds} rounds of a user, but here is one update; set "
            "rounds = 1, or capture the federation with AuditedStrategy and give fl-sim audit"
        )
    if (warning := acquaintance.shipped_prior(chosen.needs.prior)) is not None:
        note(warning)
    observation, assumed = inversion.observe(external, files)
    for sentence in [*assumed, *doubts(chosen, image_size)]:
        note(sentence)
    external.check()
    mode = external_model.find_mode(external, [observation], seed)
    with bars() as progress:
        reconstruction = external_model.invert(
            external,
            chosen,
            [observation],
            seed,
            lambda done, total: progress("steps", done, total),
            "eval" if mode is None else mode.batch_norm,
        )[0]
    for sentence in [*([] if mode is None else [mode.sentence()]), *external_model.remarks(external)]:
        messages.print(sentence, soft_wrap=True)
    facts = {
        "batch_norm": None if mode is None else dataclasses.asdict(mode),
        "update": str(update),
        "weights": str(weights),
        "model": model,
        "kind": kind,
        "num_examples": files.num_examples,
        "labels": labels or "recovered",
        "seed": seed,
        "attack": json.loads(json.dumps({"name": chosen.name, **dataclasses.asdict(chosen.settings)}, default=str)),
    }
    summary = inversion.write(out, reconstruction, facts)
    _tell(out, summary, as_json)
    for warning in (inversion.left_open(out, summary), inversion.unexplained(reconstruction.matching_loss)):
        if warning is not None:
            note(warning)
    messages.print(f"all of it: {out / 'reconstruction.json'}")


def _tell(out: Path, summary: Mapping[str, Any], as_json: bool) -> None:
    """The result on stdout."""
    if as_json:
        print(json.dumps(summary))
        return
    print(f"matching loss: {summary['matching_loss']}")
    for image in summary["images"]:
        print(f"{out / image['file']}  weight {image['weight']:.2f}")


def _num_examples(given: int | None, labels: Sequence[int] | None) -> int:
    """How many photos there are: as given, else one a label."""
    if labels is None and given is not None:
        return given
    if labels is not None and given in (None, len(labels)):
        return len(labels)
    numbers = "nothing" if given is None else f"--num-examples {given} and {len(labels or [])} labels"
    raise ConfigError(f"{numbers} given for the number of photos; give --num-examples, or --labels such as 0:18,1:12")


def _training(learning_rate: float | None, epochs: int, batch_size: int) -> "LocalTraining | None":
    """How the user came to new weights; None for a gradient."""
    from attacker.observation import LocalTraining

    if learning_rate is not None:
        return LocalTraining(epochs, batch_size, learning_rate)
    if epochs > 1 or batch_size:
        raise ConfigError(
            "--local-epochs and --batch-size are of new weights; leave them out, or give --kind weights and "
            "--learning-rate"
        )
    return None


def _labels(text: str) -> tuple[int, ...]:
    """`0:18,1:12`, a count after each label (one without), as the list of all labels."""
    labels: list[int] = []
    for part in text.split(","):
        label, _, count = part.strip().partition(":")
        if not label.isdecimal() or not (count or "1").isdecimal() or int(count or 1) < 1:
            raise ConfigError(f"--labels {text!r} is not LABEL:COUNT with commas between, such as 0:18,1:12")
        labels += [int(label)] * int(count or 1)
    return tuple(labels)


def _scale(text: str, what: str) -> tuple[float, float, float]:
    """Three numbers, of red, green and blue."""
    try:
        red, green, blue = (float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--{what} {text!r} is not three numbers with commas between, such as 0.5,0.5,0.5") from None
    return red, green, blue
