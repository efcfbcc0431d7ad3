"""What a step of an attack costs: our `inverting_gradients` beside that of the `breaching` package, and the users' one.

    pip install -e '.[benchmarks]'
    python -m experiments.benchmarks.attack_speed [--models convnet resnet18] [--sizes 32 64] [--batches 1 30] [--json]
    python -m experiments.benchmarks.attack_speed --unmixing [--json]

Both attack the same update with the published recipe (Geiping et al. 2020): the same model, parameters, labels,
start (grey with smooth noise), number of steps, cosine distance, total variation, signed Adam at 0.1 divided by ten
at 3/8, 5/8 and 7/8 of the steps, pixels kept in range. Theirs is the package's own `OptimizationBasedAttacker` with its
`invertinggradients` settings. CPU seconds of this process (one torch thread) per step, median over the steps of
all repeats; the two alternate, set-up and each run's first step are left out. Both reconstructions' matching
losses are then computed by one function, in double precision. About ten minutes for all rows.

Tried for `attacker.inversion.matching` on one core of an AMD EPYC (AVX-512), beside what it does now: channels last
pays at 30 photos (1.1 times) and costs at one (0.7 to 0.9 times); torch's own forward mode over its reverse mode (jvp,
then grad) fails on cross_entropy and would take two convolutions more than double backward. What is left of ours is
convolutions, which over ResNet-18's 30 photos run near what the core can multiply.

The second table is one user's `user_diffusion` (the shipped prior) against the inversion of all 30 photos, per step
and so at equal step count. The last is a fully connected first layer (mlp, 64 px): a whole `cocktail_party`, which runs
no model, beside a whole `inverting_gradients` at its defaults, on one gradient of a synthetic user; PSNR is the median
over photos of the best image's. `--unmixing` prints it alone.
"""

import argparse
import contextlib
import copy
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attacker.attack import Attacker
from attacker.attacks import cocktail_party, inverting_gradients, user_diffusion
from attacker.inversion.representatives import whole_batch
from attacker.observation import Observation
from attacker.priors.prior import Prior, load_prior
from clients.datasets.synthetic import SyntheticFaces
from clients.local_training import local_gradient
from experiments.evaluate.image_metrics import best_psnr
from experiments.show.markdown import markdown_table
from fl_sim.models import build, trainable
from fl_sim.seeds import generator

CLASSES = 2
UNMIXED = (4, 16, 30, 100)  # photos of a user
TV = 0.01  # weight of the batch's mean total variation; at breaching's 0.2 its best image so early is the grey start
WORK = 6e10  # multiply-adds a run may take, about: sets the number of steps of a case


@dataclass(frozen=True)
class Case:
    """One update to invert."""

    model: nn.Module  # with the parameters that were sent
    size: int  # pixels
    labels: Tensor  # (batch,) int64, as the attacks know them
    gradient: dict[str, Tensor]  # of the mean loss over the private photos

    @property
    def batch(self) -> int:
        return len(self.labels)

    @property
    def observation(self) -> Observation:
        shares = torch.bincount(self.labels, minlength=CLASSES) / self.batch
        return Observation(1, 0, dict(self.model.state_dict()), self.gradient, self.batch, shares)


def make_case(name: str, size: int, batch: int, labels_present: int = 2) -> Case:
    """Photos of smooth noise, labels half and half or all the same, an untrained model."""
    model = build(name, CLASSES, size, generator(0, "model"))
    shares = torch.tensor([0.5, 0.5]) if batch > 1 and labels_present > 1 else torch.tensor([1.0, 0.0])
    labels = whole_batch(shares, batch).labels
    noise = torch.randn(batch, 3, 8, 8, generator=generator(0, "photos"))
    photos = F.interpolate(noise, (size, size), mode="bicubic").clamp(-1, 1)
    values = torch.autograd.grad(F.cross_entropy(model(photos), labels), list(model.parameters()))
    return Case(model, size, labels, dict(zip(trainable(model), values, strict=True)))


def matching_loss(case: Case, images: Tensor) -> float:
    """1 - cosine of the gradients of images (batch, 3, H, W) in [-1, 1] and of the photos, in double precision."""
    model = copy.deepcopy(case.model).double()
    values = torch.autograd.grad(F.cross_entropy(model(images.double()), case.labels), list(model.parameters()))
    dummy = torch.cat([value.flatten() for value in values])
    observed = torch.cat([value.double().flatten() for value in case.gradient.values()])
    return 1 - float(F.cosine_similarity(dummy, observed, dim=0))


def ours(case: Case, steps: int) -> tuple[Tensor, list[float]]:
    """The reconstruction (batch, 3, H, W) in [-1, 1] and the CPU seconds of each step but the first."""
    return timed(inverting_gradients.attack, case, our_attacker(case), settings(case, steps))


def settings(case: Case, steps: int) -> inverting_gradients.Settings:
    """The published recipe."""
    return inverting_gradients.Settings(
        images="batch",
        steps=steps,
        schedule="steps",
        tv=TV / case.batch,  # ours is each image's own total variation
        sign=True,
        consensus=0.0,
        layer_norm_power=0.0,
        gradient_blur=0.0,
    )


def our_attacker(case: Case, prior: Prior | None = None) -> Attacker:
    return Attacker(case.model, case.size, CLASSES, prior, torch.device("cpu"))


def timed(attack: Callable[..., Any], case: Case, attacker: Attacker, settings: Any) -> tuple[Tensor, list[float]]:
    marks: list[float] = []
    (found,) = attack(
        [case.observation], attacker, settings, [generator(0, "attack")], lambda *_: marks.append(time.process_time())
    )
    return found.images * 2 - 1, [after - before for before, after in itertools.pairwise(marks)]


def breachings(case: Case, steps: int) -> tuple[Tensor, list[float]]:
    """The same by breaching."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            import breaching

            config = breaching.get_attack_config("invertinggradients")
    except ImportError as error:
        raise SystemExit(
            f"breaching cannot be imported ({error}); install it: pip install -e '.[benchmarks]'"
        ) from error
    config.optim.max_iterations = steps
    config.regularization.total_variation.scale = TV
    attacker = breaching.attacks.prepare_attack(case.model, nn.CrossEntropyLoss(), config)
    marks: list[float] = []
    compute = attacker._compute_objective

    def marked(*arguments: Any) -> Any:  # called once at the start of each step
        marks.append(time.process_time())
        return compute(*arguments)

    attacker._compute_objective = marked
    metadata = SimpleNamespace(shape=(3, case.size, case.size), modality="vision", mean=[0.5] * 3, std=[0.5] * 3)
    server = [
        {"parameters": list(case.model.parameters()), "buffers": list(case.model.buffers()), "metadata": metadata}
    ]
    known = {"num_data_points": case.batch, "labels": case.labels, "local_hyperparams": None}
    shared = [{"gradients": list(case.gradient.values()), "buffers": None, "metadata": known}]
    start = inverting_gradients.beginnings(
        [case.batch], [generator(0, "attack")], our_attacker(case), settings(case, steps)
    )
    found, _ = attacker.reconstruct(server, shared, {}, initial_data=start)
    # The first difference holds the first step, the last one is closed by no further call.
    return found["data"], [after - before for before, after in itertools.pairwise(marks[1:])]


def steps_of(name: str, size: int, batch: int) -> int:
    """As many as the budget of work allows, 5 to 48."""
    adds = (0.56e9 if name == "resnet18" else 7e6) * (size / 32) ** 2 * batch * 7
    return int(min(max(WORK / adds, 5), 48))


def compare(name: str, size: int, batch: int, repeats: int) -> dict[str, Any]:
    """One row: medians over the steps of all repeats."""
    case, steps = make_case(name, size, batch), steps_of(name, size, batch)
    seconds: dict[str, list[float]] = {"ours": [], "breaching": []}
    images = {}
    for _ in range(repeats):
        for who, attack in (("ours", ours), ("breaching", breachings)):
            images[who], passed = attack(case, steps)
            seconds[who] += passed
    cost = {who: statistics.median(passed) for who, passed in seconds.items()}
    return {
        "model": name,
        "size": size,
        "batch": batch,
        "ours_cpu_s_per_step": cost["ours"],
        "breaching_cpu_s_per_step": cost["breaching"],
        "speedup": cost["breaching"] / cost["ours"],
        "ours_matching_loss": matching_loss(case, images["ours"]),
        "breaching_matching_loss": matching_loss(case, images["breaching"]),
        "steps": steps,
    }


def user_level(case: Case, images_per_label: int) -> float:
    """CPU seconds a step of `user_diffusion` with so many images a label."""
    attacker = our_attacker(case, load_prior("synthetic64", case.size))
    chosen = user_diffusion.Settings(steps=12, images_per_label=images_per_label)
    _, passed = timed(user_diffusion.attack, case, attacker, chosen)
    return statistics.median(passed)


def unmixing(photos: int, size: int = 64) -> dict[str, Any]:
    """CPU seconds and PSNR (dB) of both attacks on a fully connected first layer."""
    shown = SyntheticFaces(1, photos, size, "smile", seed=0).user(0).private
    model = build("mlp", CLASSES, size, generator(0, "model"))
    seen = Observation(1, 0, dict(model.state_dict()), local_gradient(model, shown), photos, None)
    attacker = Attacker(model, size, CLASSES, None, torch.device("cpu"))
    row: dict[str, Any] = {"photos": photos}
    for module in (cocktail_party, inverting_gradients):
        began = time.process_time()
        (found,) = module.attack([seen], attacker, module.Settings(), [generator(0, "attack")], lambda *_: None)
        name = module.__name__.rpartition(".")[2]
        row[f"{name}_cpu_s"] = time.process_time() - began
        row[f"{name}_psnr"] = statistics.median(best_psnr(photo, found.images) for photo in shown.photos)
    return row


def unmixing_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The same of several numbers of photos, as Markdown."""
    names = ("cocktail_party", "inverting_gradients")
    heads = [head for name in names for head in (f"`{name}`, CPU s", "PSNR, dB")]
    lines = []
    for row in rows:
        figures = ((f"{row[f'{name}_cpu_s']:.1f}", f"{row[f'{name}_psnr']:.0f}") for name in names)
        lines.append([row["photos"], *(figure for pair in figures for figure in pair)])
    return markdown_table(["photos", *heads], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["convnet", "resnet18"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[32, 64])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 30])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="the rows of the first table, or of the last one, as JSON")
    parser.add_argument("--unmixing", action="store_true", help="the last table alone")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.unmixing:
        rows = [unmixing(photos) for photos in UNMIXED]
        print(json.dumps(rows, indent=1) if options.json else unmixing_table(rows))
        return
    rows = []
    if not options.json:
        print("one torch thread, CPU milliseconds a step")
        print(f"{'model':9s} {'size':>4s} {'batch':>5s} {'ours':>8s} {'breaching':>9s} {'ratio':>6s}", end="")
        print(f" {'steps':>5s}  matching loss: ours, breaching")
    for name in options.models:
        for size in options.sizes:
            for batch in options.batches:
                row = compare(name, size, batch, options.repeats)
                rows.append(row)
                if not options.json:
                    print(f"{name:9s} {size:4d} {batch:5d} {row['ours_cpu_s_per_step'] * 1e3:8.1f}", end="")
                    print(
                        f" {row['breaching_cpu_s_per_step'] * 1e3:9.1f} {row['speedup']:6.2f} {row['steps']:5d}", end=""
                    )
                    print(f"  {row['ours_matching_loss']:.5f}, {row['breaching_matching_loss']:.5f}", flush=True)
    if options.json:
        print(json.dumps(rows))
        return
    print("\nuser_diffusion on the update of 30 photos, and as a part of our and of their inversion of all 30")
    print(f"{'model':9s} {'size':>4s} {'labels':>6s} {'images':>6s} {'ms':>8s}  ours    breaching")
    for row in rows:
        if row["batch"] != 30:
            continue
        for labels, images_per_label in ((2, 4), (1, 1)):  # the defaults on smile; the paper's one image
            case = make_case(row["model"], row["size"], 30, labels)
            cost = user_level(case, images_per_label)
            parts = [row[f"{who}_cpu_s_per_step"] / cost for who in ("ours", "breaching")]
            print(
                f"{row['model']:9s} {row['size']:4d} {labels:6d} {labels * images_per_label:6d} {cost * 1e3:8.1f}",
                end="",
            )
            print(f"  1/{parts[0]:<5.1f} 1/{parts[1]:.1f}", flush=True)
    print("\nall of a user's photos, from a fully connected first layer")
    print(unmixing_table([unmixing(photos) for photos in UNMIXED]))


if __name__ == "__main__":
    main()
