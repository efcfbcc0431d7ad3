"""One item of the paper: run its config, draw its picture, and write what came out as JSON.

`OUT/ITEM.json` holds the set-up in words, the numbers, and the names of the pictures beside it.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attacker import attacks
from attacker.attacks.user_diffusion import Settings
from attacker.attacks.user_diffusion import centre as window_centre
from clients.datasets import task_of
from experiments.evaluate.image_metrics import best_psnr
from experiments.plan.study import Study
from experiments.run import pipeline
from experiments.show.report.svg import number
from experiments.studies import plot, results, runner
from experiments.studies.paper import pictures, tables
from experiments.studies.paper.items import HERE, SHOWN, Item
from experiments.studies.paper.pictures import Panel
from experiments.studies.paper.runs import Run
from fl_sim.config import Config, ConfigError, parse, read
from fl_sim.runs import RunFolder, write_atomically

Base = Callable[[dict[str, Any]], dict[str, Any]]  # puts real faces into a config table
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """Where runs and pages go, and what may be shown."""

    runs: Path
    out: Path
    base: Base
    overrides: tuple[str, ...]
    private_photos: bool  # whether photos of real people may be put into pictures
    tell: Tell


def make(item: Item, options: Options, command: str) -> list[str]:
    """Run and draw `item`; `OUT/ITEM.webp` (a PNG of plots) and `OUT/ITEM.json`. Returns what failed, in sentences."""
    if item.name == "algorithm1":
        _write(options, item, {"command": command, "setup": [], "pictures": {}, "tables": []})
        return []
    if item.name == "figure5":
        return _schedule(item, options, command)
    done = [_run(name, options) for name in item.configs]
    runs = [run for run, _ in done]
    drawing = {"figure1": _portrait, "figure2": _one_photo, "figure3": _full_batch, "figure4": _portrait}.get(item.name)
    found = tables.per_user(runs[0]) if drawing is _portrait else tables.revealed(runs) if drawing is None else None
    record = {
        "command": command,
        "setup": [setup_caption(run.config, run.table["user"].nunique()) for run in runs],
        "pictures": {f"{item.name}.webp": drawing(runs, options)} if drawing is not None else {},
        "tables": [found] if found is not None else [],
    }
    _write(options, item, record)
    return [problem for _, problems in done for problem in problems]


def setup_caption(config: Config, users: int) -> str:
    """The set-up of a run in one sentence."""
    dataset, model = config.dataset, config.model
    start = f"{model.name}, {'trained' if model.weights else 'untrained'}"
    needed = [attacks.load(label, table).needs.prior for label, table in config.attacks.items()]
    priors = sorted({Path(prior).name for prior in needed if prior is not None})
    task = task_of(dataset, config.seed)
    server = ", server malicious" if config.threat_model.server == "malicious" else ""
    return (
        f"{dataset.name} faces, {dataset.image_size} px, {users} users with up to {dataset.photos} photos; {start}, "
        f"task {task}, labels {config.threat_model.labels}{server}; prior {', '.join(priors) or 'none'}; "
        f"embedder {config.leakage.embedder.replace('auto', 'synthetic')}; gallery of {config.leakage.gallery_size}."
    )


def _run(name: str, options: Options) -> tuple[Run, list[str]]:
    table = {**options.base(read(HERE / f"{name}.toml", options.overrides)), "name": name}
    config = parse(Config, table)
    folder = RunFolder(options.runs / name)
    options.tell(f"run {name}: {folder.root}")
    outcome = pipeline.complete(config, folder, lambda stage, done, total: None, options.tell)
    return Run(config, folder, outcome.table), outcome.problems


def _write(options: Options, item: Item, record: dict[str, Any]) -> None:
    for name, data in record["pictures"].items():
        write_atomically(options.out / name, data)
    record = {"item": item.name, **record, "pictures": list(record["pictures"])}
    write_atomically(options.out / f"{item.name}.json", json.dumps(record, indent=1, allow_nan=False).encode())


def _photos(run: Run, options: Options) -> Tensor | None:
    """The private photos (n, 3, H, W) of the user who is shown; None where they may not be shown."""
    if run.config.dataset.name != "synthetic" and not options.private_photos:
        return None
    return run.photos()


def _portrait(runs: list[Run], options: Options) -> bytes:
    """The batch, the answer of the attack, the mean face that it is drawn from, if it is, and the prior alone."""
    run = runs[0]
    label = run.attacks[0]
    row, prior = run.row(label, "attack"), run.row(label, "prior_only")
    pairs = f"facial similarity within the batch\n{row['in_batch_min']:.2f} to {row['in_batch_max']:.2f}"
    control = next(name for name, table in run.config.attacks.items() if table.get("name", name) == "prior_only")
    return pictures.portrait(
        Panel(f"{len(run.photos())} private photos of user {SHOWN}", pairs, _photos(run, options)),
        [
            Panel(label, _score(row), run.made(label).images[:1]),
            *_determined(run, label),
            Panel("prior only (control)", _score(prior), run.made(control).images[:1]),
        ],
    )


def _determined(run: Run, label: str) -> list[Panel]:
    """What an update determines, given which the answer of an attack is drawn; nothing of an attack that draws none."""
    mean = run.made(label).determined
    return [] if mean is None else [Panel("the mean face behind it", _score(run.row(label, "determined")), mean[None])]


def _score(row: dict[str, Any]) -> str:
    return f"similarity to the batch {number(row['facial_similarity'])}\nrank {row['rank']} of {row['gallery_size']}"


def _one_photo(runs: list[Run], options: Options) -> bytes:
    """The first photo of the batch, and of every attack the image nearest to it."""
    photos = runs[0].photos()
    shown = _photos(runs[0], options)
    panels = [Panel("private photo", f"the first of {len(photos)}\n", None if shown is None else shown[:1])]
    for run in runs:
        for label in run.attacks:
            images = run.made(label).images
            scores = torch.tensor([best_psnr(image, photos[:1]) for image in images])
            best = int(scores.argmax())
            what = f"the nearest of {len(images)}" if len(images) > 1 else "its only image"
            panels.append(Panel(label, f"{what}\nPSNR {float(scores[best]):.1f} dB", images[best : best + 1]))
            panels += _determined(run, label)
    return pictures.strip(panels)


def _full_batch(runs: list[Run], options: Options) -> bytes:
    """The batch, and all images of every attack."""
    run = runs[0]
    row = run.row(run.attacks[0], "own_photo")
    pairs = f"within the batch {row['in_batch_min']:.2f} to {row['in_batch_max']:.2f}"
    panels = [Panel(f"private photos of user {SHOWN}", pairs, _photos(run, options))]
    for run in runs:
        for label in run.attacks:
            images = run.made(label).images
            arm = "all_images" if len(images) > 1 else "attack"
            row = run.row(label, arm)
            score = (
                f"together: similarity {number(row['facial_similarity'])}, rank {row['rank']} of {row['gallery_size']}"
            )
            panels += [Panel(f"{label} ({len(images)})", score, images), *_determined(run, label)]
    return pictures.batches(panels)


def _schedule(item: Item, options: Options, command: str) -> list[str]:
    """The schedule of `user_diffusion`, and what others give on the same updates: a study within one run."""
    study = parse(Study, read(HERE / "figure5.toml", [f"base.{one}" for one in options.overrides]))
    study = study.model_copy(update={"base": options.base(study.base)})
    silent, tell = lambda *counts: None, options.tell
    outcome = runner.run(item.name, study, options.runs, "study", results.rows, "configured", silent, tell, tell)
    if outcome.table.empty:
        raise ConfigError(f"no run of {item.name} is finished: {'; '.join(outcome.problems)}")
    table = outcome.table
    drawn = {
        f"{item.name}.png": draw_schedule(parse(Settings, study.base["attacks"]["user_diffusion"])),
        f"{item.name}-leakage.png": plot.draw(study, table),
    }
    setup = setup_caption(parse(Config, study.base), int(table["users"].max()))
    record = {"command": command, "setup": [setup], "pictures": drawn, "tables": [tables.varied(table)]}
    _write(options, item, record)
    return outcome.problems


def draw_schedule(settings: Settings) -> bytes:
    """The window of time steps of `user_diffusion` over its steps (Figure 5). A PNG."""
    centre = [window_centre(settings, step / max(settings.steps - 1, 1)) for step in range(settings.steps)]
    return pictures.schedule(centre, settings.window, settings.steps)
