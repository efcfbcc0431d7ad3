"""What is best made of the mean face that an update determines: sharpened, refined, or a photo drawn given it.

    python -m experiments.studies.finishes runs/MINE --attack user_diffusion --out FILE.json [--plot FILE.png]

RUN is a finished run whose attack drew photos with a conditional prior. Its mean faces are finished in every way of
`finishes`, and judged as the run's own pictures were: whom they show (facial similarity, users identified) beside how
real they look (face probability, sharpness, patches), and what they cost. Two landmarks frame them: a photo of the
user, and the mean of the private photos. The rows and the command go to FILE.json, a Markdown table to the terminal.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from attacker.attacks import user_diffusion
from attacker.capture.store import CaptureStore, read_attack_table, read_reconstruction
from attacker.gaussian_blur import gaussian_blur
from attacker.observation import Reconstruction
from attacker.priors import eigenfaces
from attacker.priors.eigenfaces import Eigenfaces
from attacker.priors.posterior import TOGETHER, draw_faces, most_photographic
from attacker.priors.prior import Prior, load_prior
from clients.datasets import open_dataset
from clients.user import FaceDataset
from experiments.evaluate.candidates import Candidate
from experiments.evaluate.evaluator import Evaluator, Models, open_models
from experiments.evaluate.ground_truth import captures_by_user
from experiments.evaluate.realism import SHARPNESS, SWD
from experiments.evaluate.textures import Textures
from experiments.show.markdown import markdown_table
from experiments.statistics.aggregate import aggregate
from experiments.statistics.interval import Interval
from experiments.studies import finishes_plot
from experiments.studies.paper.make import setup_caption
from fl_sim.config import Config, ConfigError, load
from fl_sim.runs import RunFolder, write_atomically
from fl_sim.seeds import generator
from fl_sim.threads import one_thread

BLURS = (1.0, 1.5, 2.0, 3.0)  # pixels, standard deviation of what counts as low frequency
STEPS = (5, 10, 20)  # of each conditional draw
CONTRASTS = (0.0, 1.0)  # of the mean, instead of the attack's
STRENGTHS = (0.2, 0.4, 0.7, 1.0)  # the least, instead of the attack's
REVERSE = 25  # steps of the reverse process whose low frequencies are replaced
START = 0.7  # of the schedule, where it begins
INTERVALS = ("facial_similarity", "rank1", "face_probability", *SHARPNESS)
Row = dict[str, Any]


@dataclass(frozen=True)
class Finish:
    """One way to finish the mean faces, and what it makes of them."""

    name: str
    kind: str  # one of finishes_plot.KINDS
    passes: int  # of the U-Net, for one user's picture
    pictures: (
        Tensor  # (k, users, 3, H, W) in [0, 1]; of several each would do as the answer, and figures are their means
    )


@dataclass(frozen=True)
class Found:
    """What an attack left in the first round that it attacked."""

    prior: str  # that it drew with
    draw_steps: int  # of each draw
    made: Mapping[int, Reconstruction]  # by partition of the user; each with its draws and what is determined


def find(run: RunFolder, label: str) -> Found:
    """What the attack `label` left in `run`. ConfigError where it drew nothing."""
    config, store = load(run.config, []), CaptureStore(run)
    for number in store.finished_rounds():
        made: dict[int, Reconstruction] = {}
        settings: dict[str, Any] = {}
        for user, capture in sorted(captures_by_user(config, store, number).items()):
            table = read_attack_table(run, label, number, capture)
            if table is None:
                continue
            one = read_reconstruction(run, label, number, capture)
            if one.draws is not None and one.determined is not None:
                made[user], settings = one, table
        if made and {"prior", "draw_steps"} <= settings.keys():
            return Found(str(settings["prior"]), int(settings["draw_steps"]), made)
    raise ConfigError(
        f"{run.root} holds no draws of an attack {label!r}; give a finished run, and the label of an attack in it that "
        "drew photos, as user_diffusion does with a conditional prior (docs/priors.md)"
    )


def finishes(
    prior: Prior, made: Sequence[Reconstruction], draw_steps: int, seed: int, space: Eigenfaces | None
) -> Iterator[Finish]:
    """Every finish of `made`, one a user; `draw_steps` is what its draws took, `space` what was known of faces."""
    mean = torch.stack([one.determined for one in made if one.determined is not None])  # (users, 3, H, W)
    draws = torch.stack([one.draws for one in made if one.draws is not None], dim=1)  # (draws, users, 3, H, W)
    answers = torch.stack([one.images[0] for one in made])
    count, scale = len(draws), mean.shape[-1] / 64
    yield Finish("the mean", "mean", 0, mean[None])
    yield Finish("the mean, sharpened", "mean", 0, _shown(mean * 2 - 1)[None])
    noise = torch.stack([_noise(prior, 1, seed, "replaced", user)[0] for user in range(len(made))])
    pairs = list(zip(torch.split(mean * 2 - 1, TOGETHER), torch.split(noise, TOGETHER), strict=True))
    for blur in BLURS:
        refined = torch.cat([replace_low(prior, some, at, blur * scale) for some, at in pairs])
        yield Finish(f"low frequencies replaced, {blur:g} px", "replaced", REVERSE, _shown(refined)[None])
    drawn = count * (draw_steps + 1)
    yield Finish(f"the most photographic of {count} draws: the answer", "drawn", drawn, answers[None])
    typical = (draws - draws.mean(0)).square().sum((2, 3, 4)).argmin(0)
    nearest = draws[typical, torch.arange(len(made))]
    yield Finish("the draw nearest to their mean", "drawn", drawn, nearest[None])
    yield Finish("any one draw", "drawn", draw_steps + 1, draws)
    yield Finish(f"the mean of {count} draws", "drawn", drawn, draws.mean(0, keepdim=True))
    noises = torch.stack(
        [_noise(prior, count, seed, "drawn", user) for user in range(len(made))]
    )  # (users, draws, ...)
    flat = torch.split(noises[:, 0], TOGETHER), torch.split(mean * 2 - 1, TOGETHER)
    alone = [prior.sample(some, draw_steps, condition=prior.encode(given)) for some, given in zip(*flat, strict=True)]
    yield Finish("one photo drawn given the mean, nothing held", "redrawn", draw_steps, _shown(torch.cat(alone))[None])

    def redrawn(varied: str, steps: int = draw_steps, **amounts: float) -> Finish:
        new = _shown(draw_faces(prior, mean * 2 - 1, noises, steps, space, **amounts))
        chosen = torch.stack([own[most_photographic(own * 2 - 1, space)] for own in new])
        name = f"the most photographic of {count} new draws, {varied}"
        return Finish(name, "redrawn", count * (steps + 1), chosen[None])

    for steps in STEPS:
        yield redrawn(f"{steps} steps", steps)
    for contrast in CONTRASTS:
        yield redrawn(f"contrast {contrast:g}", contrast=contrast)
    for strength in STRENGTHS:
        yield redrawn(f"strength of {strength:g} at least", least_strength=strength)


def _shown(images: Tensor) -> Tensor:
    """Pictures (n, 3, H, W) in [0, 1], sharpened as the answers of the attack are."""
    sharp = user_diffusion.sharpened(images)
    return ((sharp + 1) / 2).clamp(0, 1)


def replace_low(prior: Prior, means: Tensor, noise: Tensor, blur: float) -> Tensor:
    """`means` (n, 3, H, W) in [-1, 1] with new high frequencies: iterative latent variable refinement.

    Choi et al. 2021: REVERSE deterministic steps (DDIM) of the prior's reverse process, without a condition, from
    `means` noised to START of the schedule by `noise` (n, 3, S, S). After each the predicted image's Gaussian blur of
    `blur` pixels is replaced by that of `means`. (n, 3, H, W) in [-1, 1]. ValueError for a latent prior, whose codes
    are no pixels.
    """
    if prior.latent:
        raise ValueError("low frequencies are replaced in pixels, and the prior is a latent one")
    image = prior.encode(means)  # (n, 3, S, S)
    sigma = blur * prior.size / means.shape[-1]
    low = gaussian_blur(image, sigma)
    last = START * (prior.steps - 1)
    times = sorted(set(torch.linspace(last, 0, REVERSE).round().long().tolist()), reverse=True)
    x = prior.add_noise(image, noise, torch.full((len(image),), times[0]))
    for now, following in pairwise([torch.full((len(x),), t) for t in [*times, 0]]):
        seen = prior.predict_x0(x, now)
        image = seen - gaussian_blur(seen, sigma) + low
        x = prior.step(x, image, now, following)
    return prior.decode(image).clamp(-1, 1)


def landmarks(dataset: FaceDataset, users: Sequence[int]) -> Iterator[Finish]:
    """What frames the finishes: a photo of each user that nobody trained on, and the mean of the private ones."""
    people = [dataset.user(user) for user in users]
    photos = torch.stack([person.held_out.photos[0] for person in people])
    means = torch.stack([person.private.photos.mean(0) for person in people])
    yield Finish("a photo", "landmark", 0, photos[None])
    yield Finish("the mean of the photos", "landmark", 0, means[None])


def judged(finished: Sequence[Finish], users: Sequence[int], models: Models, config: Config) -> pd.DataFrame:
    """A leakage table with the finishes in the place of attacks; a user's several pictures are numbered as rounds."""
    dataset, textures, rows = open_dataset(config.dataset, config.seed), Textures(models.eye.real, len(users)), []
    for place, user in enumerate(users):
        evaluator = Evaluator(models, dataset.user(user))
        for finish in finished:
            for number, picture in enumerate(finish.pictures[:, place], 1):
                seen, _ = models.eye.look([picture])
                candidate = Candidate("attack", seen, torch.ones(1))
                textures.add(finish.name, number, [candidate])
                key = {"run": config.name, "seed": config.seed, "user": user, "round": number, "attack": finish.name}
                rows.append(key | evaluator.score(candidate))
    return textures.onto(pd.DataFrame(rows))


def row(finish: Finish, table: pd.DataFrame) -> Row:
    """The figures of a finish: mean and 95 % interval over users; of patches, of all users together, one number."""
    figures = aggregate(table[table["attack"] == finish.name])["overall"][finish.name]["attack"]
    users = finish.pictures.shape[1]
    line: Row = {"finish": finish.name, "kind": finish.kind, "unet_passes": finish.passes, "users": users}
    line["named_first"] = round(figures["rank1"].mean * users, 2)
    rounded = {name: {end: _rounded(value) for end, value in figures[name].as_json().items()} for name in figures}
    line |= {name: rounded.get(name) for name in INTERVALS}
    return line | {name: rounded[name]["mean"] if name in rounded else None for name in SWD}


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a table."""
    heads = ["finish", "U-Net passes", "similarity [95 %]", "named first [95 %]", "face [95 %]"]
    heads += ["sharpness, 3 bands", "patch distance, 3 scales"]
    lines = []
    for one in rows:
        near, share, face = one["facial_similarity"], one["rank1"], one["face_probability"]
        lines.append(
            [
                one["finish"],
                one["unet_passes"],
                _interval(near),
                f"{one['named_first']:g} of {one['users']} [{100 * share['low']:.0f}, {100 * share['high']:.0f} %]",
                "" if face is None else _interval(face),
                " ".join(f"{one[name]['mean']:.2f}" for name in SHARPNESS),
                " ".join("-" if one[name] is None else f"{one[name]:.1f}" for name in SWD),
            ]
        )
    return markdown_table(heads, lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.studies.finishes", description="Finishes of mean faces."
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a finished run")
    parser.add_argument(
        "--attack", default="user_diffusion", metavar="LABEL", help="whose mean faces; default: %(default)s"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="JSON", help="where the rows are written")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="identity against realism, a point a finish")
    given = parser.parse_args(arguments)
    options = sys.argv[1:] if arguments is None else arguments
    command = shlex.join(["python", "-m", "experiments.studies.finishes", *options])
    try:
        with one_thread():
            record = compare(RunFolder(given.run), given.attack, command)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    write_atomically(given.out, (json.dumps(record, indent=1, allow_nan=False) + "\n").encode())
    if given.plot is not None:
        write_atomically(given.plot, finishes_plot.draw(record["rows"]))
    print(markdown(record["rows"]))
    return 0


def compare(run: RunFolder, label: str, command: str) -> dict[str, Any]:
    """The record of `run`: how it came about, and a row a finish."""
    config, found = load(run.config, []), find(run, label)
    prior = load_prior(found.prior, config.dataset.image_size)
    if prior.latent or not prior.conditional:
        raise ConfigError(
            f"attack {label!r} drew with prior {found.prior!r}, which is not conditional; give the one it drew with"
        )
    models, users = open_models(config.dataset, config.leakage, config.seed), list(found.made)
    shown = [*landmarks(open_dataset(config.dataset, config.seed), users)]
    for finish in finishes(prior, list(found.made.values()), found.draw_steps, config.seed, eigenfaces.read(run.faces)):
        print(f"{finish.name}: {finish.passes} passes of the U-Net a user", file=sys.stderr, flush=True)
        shown.append(finish)
    table = judged(shown, users, models, config)
    return {"command": command, "setup": setup_caption(config, len(users)), "rows": [row(one, table) for one in shown]}


def _noise(prior: Prior, count: int, seed: int, purpose: str, user: int) -> Tensor:
    """(count, c, S, S), standard normal."""
    shape = count, prior.channels, prior.size, prior.size
    return torch.randn(shape, generator=generator(seed, "finishes", purpose, user))


def _interval(ends: Mapping[str, Any]) -> str:
    return "-" if ends["mean"] is None else Interval(**ends).spelled()


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


if __name__ == "__main__":
    sys.exit(main())
