"""`fl-sim invert`: one update that came from anywhere, without a federation."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from experiments.cli.console import AsJson, bars, messages, note
from fl_sim.config import ConfigError, read

Model = Annotated[
    str, typer.Option(metavar="PACKAGE.MODULE:FACTORY", help="What makes the model, called without arguments.")
]
AttackName = Annotated[str, typer.Option("--attack", help="Name of the attack, or package.module.")]
Settings = Annotated[
    list[str] | None, typer.Option("-o", "--override", metavar="KEY=VALUE", help="A setting of the attack. Repeatable.")
]


def invert(
    update: Annotated[Path, typer.Option(help="Safetensors or .pth: the gradient, or the new weights.")],
    weights: Annotated[Path, typer.Option(help="Safetensors or .pth: the state dict that the user started from.")],
    model: Model,
    out: Annotated[Path, typer.Option(help="Folder for the pictures and reconstruction.json.")],
    kind: Annotated[Literal["gradient", "weights"], typer.Option(help="What the update is.")] = "gradient",
    learning_rate: Annotated[float | None, typer.Option(help="Of the user's steps; needed for weights.")] = None,
    local_epochs: Annotated[int, typer.Option(min=1, help="Passes of the user over its photos.")] = 1,
    batch_size: Annotated[int, typer.Option(min=0, help="Photos a step; 0: all.")] = 0,
    num_examples: Annotated[int | None, typer.Option(min=1, help="Photos behind the update.")] = None,
    labels: Annotated[
        str | None, typer.Option(help="Labels of the photos, such as 0:18,1:12 or 4; else they are recovered.")
    ] = None,
    loss: Annotated[str | None, typer.Option(help="package.module:name of the loss; cross-entropy by default.")] = None,
    image_size: Annotated[int, typer.Option(min=8, help="Pixels that the model takes.")] = 64,
    mean: Annotated[str, typer.Option(help="Subtracted from images in [0, 1], then ...")] = "0.5,0.5,0.5",
    std: Annotated[str, typer.Option(help="... divided by this: the app's Normalize.")] = "0.5,0.5,0.5",
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
    from attacker.observation import LocalTraining
    from experiments.audit import inversion
    from experiments.plan import acquaintance
    from experiments.run.prior_trial import doubts

    counted = None if labels is None else _labels(labels)
    examples = num_examples or (None if counted is None else len(counted))
    if examples is None or (counted is not None and examples != len(counted)):
        given = "nothing" if examples is None else f"--num-examples {examples} and {len(counted or [])} labels"
        raise ConfigError(f"{given} given for the number of photos; give --num-examples, or --labels such as 0:18,1:12")
    if kind == "gradient" and (learning_rate is not None or local_epochs > 1 or batch_size):
        raise ConfigError("a gradient has no learning rate, epochs or batches; leave them out, or give --kind weights")
    watched = external_model.ForeignModel(
        model, image_size, loss, _scale(mean, "mean"), _scale(std, "std"), str(Path.cwd())
    )
    local = None
    if learning_rate is not None:
        if learning_rate <= 0:
            raise ConfigError(f"--learning-rate {learning_rate} given; give that of the user's steps, above 0")
        local = LocalTraining(local_epochs, batch_size, learning_rate)
    chosen = external_model.open_attack(attack, read(None, override or []))
    if (told := acquaintance.shipped_prior(chosen.settings)) is not None:
        note(told)
    import torch

    known = None if counted is None else torch.tensor(counted)
    observation, assumed = inversion.observe(watched, weights, update, kind, examples, known, local)
    for sentence in [*assumed, *doubts([chosen], image_size)]:
        note(sentence)
    watched.check()
    mode = external_model.find_mode(watched, [observation], seed)
    norm = "eval" if mode is None else mode.batch_norm
    with bars() as progress:
        found = external_model.invert(
            watched, chosen, [observation], seed, lambda done, total: progress("steps", done, total), norm
        )
    for sentence in [*([] if mode is None else [mode.sentence()]), *external_model.remarks(watched)]:
        messages.print(sentence, soft_wrap=True)
    facts: dict[str, Any] = {"batch_norm": None if mode is None else dataclasses.asdict(mode)}
    facts |= {"update": str(update), "weights": str(weights), "model": model, "kind": kind, "num_examples": examples}
    settings = json.loads(json.dumps({"name": chosen.name, **dataclasses.asdict(chosen.settings)}, default=str))
    said = inversion.write(out, found[0], {**facts, "labels": labels or "recovered", "seed": seed, "attack": settings})
    if as_json:
        print(json.dumps(said))
    else:
        print(f"matching loss: {said['matching_loss']}")
        for image in said["images"]:
            print(f"{out / image['file']}  weight {image['weight']:.2f}")
    if (drawn := inversion.left_open(out, said)) is not None:
        note(drawn)
    if (doubt := inversion.unexplained(found[0].matching_loss)) is not None:
        note(doubt)
    messages.print(f"all of it: {out / 'reconstruction.json'}")


def _labels(text: str) -> list[int]:
    """`0:18,1:12`, a count after each label (one without), as the list of all labels."""
    found: list[int] = []
    for part in text.split(","):
        label, _, count = part.strip().partition(":")
        if not label.isdecimal() or not (count or "1").isdecimal() or int(count or 1) < 1:
            raise ConfigError(f"--labels {text!r} is not LABEL:COUNT with commas between, such as 0:18,1:12")
        found += [int(label)] * int(count or 1)
    return found


def _scale(text: str, what: str) -> tuple[float, float, float]:
    """Three numbers, of red, green and blue."""
    try:
        red, green, blue = (float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--{what} {text!r} is not three numbers with commas between, such as 0.5,0.5,0.5") from None
    if what == "std" and min(red, green, blue) <= 0:
        raise ConfigError(f"--std {text!r} is not above 0; give what the app's Normalize divides by")
    return red, green, blue
