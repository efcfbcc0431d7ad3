"""Existing attacks, each on a small case of its paper's setting: one row a case, what was reached, CPU seconds.

    python -m experiments.benchmarks.existing_attacks              # all, about 6 minutes of one free core
    python -m experiments.benchmarks.existing_attacks dlg idlg     # some
    python -m experiments.benchmarks.existing_attacks --json

The faces are synthetic. PSNR and mean squared error are of pixels in [0, 1], each photo against the reconstruction that
is nearest to it.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from attacker import attacks
from attacker.attack import Attacker
from attacker.attacks import (
    cocktail_party,
    dlg,
    generative_latent,
    idlg,
    imprint,
    inverting_gradients,
    see_through_gradients,
)
from attacker.observation import Observation, Reconstruction
from attacker.priors.prior import Prior, load_prior
from clients.datasets.synthetic import SyntheticFaces
from clients.local_training import local_gradient
from clients.user import Faces
from experiments.evaluate import embedders
from fl_sim.models import batch_statistics, build, normalise
from fl_sim.seeds import generator
from fl_sim.threads import one_thread

Row = dict[str, Any]  # attack, case, reached, cpu_seconds


def faces(count: int, size: int, labels: list[int]) -> Faces:
    """One photo (3, size, size) of each of `count` people, labelled in turn."""
    people = SyntheticFaces(count, 1, size, "smile", seed=0)
    photos = torch.cat([people.user(index).private.photos for index in range(count)])
    return Faces(photos, torch.tensor([labels[index % len(labels)] for index in range(count)]), {})


def run(
    module: ModuleType,
    model: nn.Module,
    shown: Faces,
    classes: int,
    prior: Prior | None = None,
    statistics: bool = False,
    **settings: Any,
) -> Reconstruction:
    """What the attack makes of the gradient of `shown`, with its batch-norm `statistics` or without."""
    size, state = shown.photos.shape[-1], dict(model.state_dict())
    with torch.no_grad():
        told = batch_statistics(model, normalise(shown.photos)) if statistics else None
    gradient = local_gradient(model, shown)
    seen = Observation(1, 0, state, gradient, len(shown.photos), None, statistics=told)
    attacker = Attacker(model, size, classes, prior, torch.device("cpu"))
    found: list[Reconstruction] = module.attack(
        [seen], attacker, module.Settings(**settings), [generator(0, "benchmark")], lambda done, total: None
    )
    return found[0]


def errors(shown: Tensor, found: Tensor) -> Tensor:
    """Mean squared error (n,) of the image of `found` (k, 3, H, W) that is nearest to each of `shown` (n, 3, H, W)."""
    return torch.stack([(found - photo).square().mean((1, 2, 3)).min() for photo in shown])


def psnr(errors: Tensor) -> Tensor:
    """10 log10(1 / error), in dB: higher is better."""
    return -10 * errors.clamp_min(1e-12).log10()


def as_in_dlg(model: nn.Module) -> nn.Module:
    """`model` with all weights uniform in [-0.5, 0.5], as Zhu et al. 2019 have them."""
    draw = generator(0, "uniform")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=draw) - 0.5)
    return model


def deep_leakage() -> list[Row]:
    rows = []
    for case, model, settings in (
        ("weights uniform as in the paper", as_in_dlg(fresh("lenet", 10)), {"steps": 100, "layer_norm_power": 0.0}),
        ("PyTorch's initialisation", fresh("lenet", 10), {"steps": 50}),
    ):
        shown = faces(1, 32, [3])
        reached = float(errors(shown.photos, run(dlg, model, shown, 10, **settings).images))
        rows.append({"case": f"1 face, 32 px, sigmoid lenet, {case}", "reached": f"MSE {reached:.1e}"})
    return rows


def improved_deep_leakage() -> list[Row]:
    model, right, many = fresh("lenet", 10), 0, 100
    for index in range(many):
        draw = generator(index, "label")
        shown = Faces(torch.rand(1, 3, 32, 32, generator=draw), torch.randint(10, (1,), generator=draw), {})
        right += int(idlg.only_label(local_gradient(model, shown), model, normalise(shown.photos))) == int(shown.labels)
    shown, model = faces(1, 32, [3]), as_in_dlg(fresh("lenet", 10))
    reached = float(errors(shown.photos, run(idlg, model, shown, 10, steps=100, layer_norm_power=0.0).images))
    case = "1 face, 32 px, sigmoid lenet, weights uniform as in the paper"
    return [
        {"case": "1 image of noise, 10 classes, sigmoid lenet", "reached": f"labels {right}/{many}"},
        {"case": case, "reached": f"MSE {reached:.1e}"},
    ]


def published_inverting_gradients() -> list[Row]:
    shown, rows = faces(1, 32, [1]), []
    for restarts in (1, 2):
        recipe = {"preset": "paper", "steps": 1200, "restarts": restarts}
        settings = asdict(attacks.load("inverting_gradients", recipe).settings)
        found = run(inverting_gradients, fresh("convnet", 2), shown, 2, **settings).images
        reached = float(psnr(errors(shown.photos, found)))
        case = f"1 face, 32 px, convnet, published settings, 1200 steps, best of {restarts}"
        rows.append({"case": case, "reached": f"PSNR {reached:.1f} dB"})
    return rows


def grad_inversion() -> list[Row]:
    shown, model, rows = faces(4, 16, [0, 1, 2, 3]), fresh("resnet18", 4, 16), []
    for statistics in (False, True):
        found = run(see_through_gradients, model, shown, 4, statistics=statistics, seeds=2, steps=150).images
        reached = float(psnr(errors(shown.photos, found)).mean())
        case = f"4 faces, 4 labels, 16 px, resnet18, batch-norm statistics {'granted' if statistics else 'not granted'}"
        rows.append({"case": case, "reached": f"PSNR {reached:.1f} dB"})
    return rows


def latent_search() -> list[Row]:
    shown = SyntheticFaces(1, 30, 64, "smile", seed=0).user(0).private
    prior, embed, model = load_prior("synthetic64", 64), embedders.synthetic(), fresh("convnet", 2, 64)
    found = run(generative_latent, model, shown, 2, prior=prior)
    start = run(generative_latent, model, shown, 2, prior=prior, steps=1)
    after, before = (float((embed(shown.photos) @ embed(one.images[:1]).T).mean()) for one in (found, start))
    reached = f"facial similarity {after:.2f} ({before:.2f} after 1 step), loss {found.matching_loss:.4f}"
    return [{"case": "30 photos of one person, 64 px, convnet, shipped prior", "reached": reached}]


def robbing_the_fed() -> list[Row]:
    rows = []
    for name in ("mlp", "imprint_convnet"):
        people, shares = SyntheticFaces(4, 30, 64, "smile", seed=0), []
        for user in range(4):
            shown, model = people.user(user).private, fresh(name, 2, 64)
            model.load_state_dict(imprint.rewrite(1, dict(model.state_dict()), imprint.Settings(), 64))
            found = run(imprint, model, shown, 2).images
            shares.append(float((psnr(errors(shown.photos, found)) > 30).float().mean()))
        reached = f"{sum(shares) / 4:.0%} of photos above 30 dB"
        rows.append({"case": f"30 photos of one person, 64 px, {name}, 4 users", "reached": reached})
    return rows


def cocktail() -> list[Row]:
    strangers, model, rows = faces(16, 64, [0, 1]), fresh("mlp", 2, 64), []
    for whose, shown in (
        ("strangers", strangers),
        ("one person", SyntheticFaces(1, 16, 64, "smile", 0).user(0).private),
    ):
        for objective, recipe in (("published objective", {"preset": "paper"}), ("defaults", {})):
            settings = asdict(attacks.load("cocktail_party", recipe).settings)
            reached = float(
                psnr(errors(shown.photos, run(cocktail_party, model, shown, 2, **settings).images)).median()
            )
            rows.append({"case": f"16 photos of {whose}, 64 px, mlp, {objective}", "reached": f"PSNR {reached:.1f} dB"})
    return rows


def fresh(name: str, classes: int, size: int = 32) -> nn.Module:
    return build(name, classes, size, generator(0, "model"))


CASES: dict[str, Callable[[], list[Row]]] = {
    "dlg": deep_leakage,
    "idlg": improved_deep_leakage,
    "inverting_gradients": published_inverting_gradients,
    "see_through_gradients": grad_inversion,
    "generative_latent": latent_search,
    "imprint": robbing_the_fed,
    "cocktail_party": cocktail,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("attacks", nargs="*", help=f"which of {', '.join(CASES)}; all if none is given")
    parser.add_argument("--json", action="store_true", help="one JSON object a row")
    given = parser.parse_args()
    for name in given.attacks or CASES:
        if name not in CASES:
            parser.error(f"no case for {name!r}; choose of {', '.join(CASES)}")
        started = time.process_time()
        with one_thread():
            rows = CASES[name]()
        for row in rows:
            row = {"attack": name, **row, "cpu_seconds": round((time.process_time() - started) / len(rows), 1)}
            text = "{attack:22s} {case:66s} {reached:32s} {cpu_seconds:7.1f} s".format(**row)
            print(json.dumps(row) if given.json else text, flush=True)


if __name__ == "__main__":
    main()
