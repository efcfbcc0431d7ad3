"""Frames: an attack that iterates keeps as many as it is asked for, and answers the same whatever it keeps."""

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from attacker.attack import Attack, Attacker
from attacker.attacks import (
    dlg,
    generative_latent,
    guided_sampling,
    idlg,
    inverting_gradients,
    prior_only,
    see_through_gradients,
    user_diffusion,
)
from attacker.capture.store import Capture, CaptureStore, read_reconstruction
from attacker.inversion.trail import Trail
from attacker.observation import Observation, Reconstruction, pixels
from attacker.priors.prior import Prior
from attacker.workers.jobs import Job, Workbench, is_done
from clients.local_training import local_gradient
from clients.user import Faces
from fl_sim.models import build
from fl_sim.runs import RunFolder, write_manifest
from fl_sim.seeds import generator

SIZE, STEPS = 16, 3
ITERATING: list[tuple[ModuleType, dict[str, Any]]] = [
    (user_diffusion, {"steps": STEPS, "draws": 2, "draw_steps": 2}),
    (user_diffusion, {"steps": STEPS, "draws": 0}),
    (user_diffusion, {"steps": STEPS, "draws": 0, "images_per_label": 1}),
    (inverting_gradients, {"steps": STEPS}),
    (inverting_gradients, {"steps": STEPS, "restarts": 3, "images": "batch", "start": "normal"}),
    (guided_sampling, {"levels": STEPS, "guidance": 1}),
    (generative_latent, {"steps": STEPS, "sampler_steps": 2}),
    (see_through_gradients, {"steps": STEPS, "seeds": 3}),
    (dlg, {"steps": STEPS}),
    (idlg, {"steps": STEPS}),
]


class BlurUNet(torch.nn.Module):
    """Stands for a U-Net that predicts the image: a blur of what it sees, and of the mean face if one is given."""

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> Any:
        class Output:
            sample = F.avg_pool2d(x, 5, stride=1, padding=2).view(len(x), -1, 3, SIZE, SIZE).sum(1)

        return Output()


def attack(module: ModuleType, frames: int, settings: dict[str, Any]) -> list[Reconstruction]:
    """What it makes of two users, one of them with two labels."""
    abar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)
    prior = Prior(BlurUNet(), abar, "sample", SIZE, SIZE, autocast=False, conditional=True)
    model = build("lenet", 2, SIZE, generator(0, "model"))
    attacker = Attacker(model, SIZE, 2, prior, torch.device("cpu"), frames=frames)
    observations = []
    for user, labels in enumerate(([0, 0, 1], [1])):
        photos = torch.rand(len(labels), 3, SIZE, SIZE, generator=generator(user, "photos"))
        gradient = local_gradient(model, Faces(photos, torch.tensor(labels), {}))
        observations.append(Observation(1, user, dict(model.state_dict()), gradient, len(labels), None))
    generators = [generator(0, "attack", user) for user in range(2)]
    made: list[Reconstruction] = module.attack(
        observations, attacker, module.Settings(**settings), generators, lambda done, total: None
    )
    return made


@pytest.mark.parametrize(("module", "settings"), ITERATING)
def test_the_answer_is_the_same_whatever_is_kept_and_the_last_frame_shows_it(
    module: ModuleType, settings: dict[str, Any]
) -> None:
    bare = attack(module, 0, settings)
    for count in (1, 50):
        for made, without in zip(attack(module, count, settings), bare, strict=True):
            assert without.frames is None
            for name in ("images", "weights", "draws", "determined"):
                one, other = getattr(made, name), getattr(without, name)
                assert one is other is None or torch.equal(one, other)
            assert made.matching_loss == without.matching_loss
            assert made.frames is not None
            assert made.frames.shape == (min(count, STEPS + 1), 3, SIZE, SIZE)
            end = made.images[0] if made.determined is None else made.determined
            assert int((pixels(made.frames[-1]).int() - pixels(end).int()).abs().max()) <= 1


@pytest.mark.parametrize(("module", "settings"), ITERATING)
def test_more_steps_go_on_from_the_same_start(module: ModuleType, settings: dict[str, Any]) -> None:
    made = attack(module, 50, settings)
    for one in made:
        assert one.frames is not None
        assert not torch.equal(one.frames[0], one.frames[-1])
    for few, many in zip(attack(module, 2, settings), made, strict=True):
        assert few.frames is not None
        assert many.frames is not None
        assert torch.allclose(few.frames, many.frames[[0, -1]])


def test_an_attack_that_does_not_iterate_keeps_none() -> None:
    assert [made.frames for made in attack(prior_only, 6, {"steps": 2})] == [None, None]


def test_a_job_keeps_what_the_setting_says_which_puts_no_result_out_of_date(tmp_path: Path) -> None:
    run, job = RunFolder(tmp_path), Job("a", 1, (0,))
    weight = {"weight": torch.ones(1)}
    store = CaptureStore(run)
    store.save_model(1, weight)
    store.save_round(1, [Capture(0, 0, "accepted", "", 4, 1.0, 4, 0.1, weight)], "gradient", 0.1, weight)
    store.wait()
    write_manifest(run, num_classes=2, image_size=32)

    def keeper(observations: Any, attacker: Attacker, *rest: Any) -> list[Reconstruction]:
        way = torch.rand(attacker.frames, 3, 32, 32) if attacker.frames else None
        return [Reconstruction(torch.zeros(1, 3, 32, 32), torch.ones(1), 0.0, 0.0, frames=way)]

    attack = Attack("a", "probe", inverting_gradients.Settings(), keeper)
    for count in (0, 4):
        run.config.write_text(f'[dataset]\nimage_size = 32\n[model]\nname = "mlp"\n[workers]\nframes = {count}\n')
        bench = Workbench(run.root)
        bench.attacks = {"a": attack}
        assert is_done(run, bench.config, attack, job) == bool(count)
        bench.perform(job)
        kept = read_reconstruction(run, "a", 1, 0).frames
        assert (0 if kept is None else len(kept)) == count


@given(st.integers(0, 30), st.integers(1, 60))
def test_frames_are_spread_evenly_from_the_first_step_to_the_last(count: int, steps: int) -> None:
    trail = Trail(count, steps)
    for done in range(steps + 1):
        trail(done, torch.full((2, 1, 1, 1), float(done)))
    kept = trail.frames(torch.zeros(2, 1, 1, 1))
    assert kept.shape == (2, min(count, steps + 1), 1, 1, 1)
    seen = kept[0].flatten().tolist()
    assert seen[-1:] == [steps] * bool(count)
    if count > 1:
        apart = torch.tensor(seen).diff()
        assert seen[0] == 0
        assert float(apart.max() - apart.min()) <= 1
