"""What is made of mean faces is judged as the run judged its own pictures, and each finish is what its name says."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from fake_run import fake_run
from priors import unet, write_prior
from tiny_faces import tiny_config
from torch import Tensor, nn

from attacker.gaussian_blur import gaussian_blur
from attacker.observation import Reconstruction
from attacker.priors.prior import Prior
from experiments.evaluate.realism import SWD
from experiments.run import pipeline
from experiments.studies import finishes, finishes_plot
from experiments.studies.finishes import BLURS, CONTRASTS, REVERSE, STEPS, STRENGTHS, main, replace_low
from fl_sim.runs import RunFolder
from fl_sim.seeds import generator

SIZE = 16


class Grey(nn.Module):
    """A conditional U-Net that predicts the image: grey, and a tenth of the mean face and of what it sees beside it."""

    def __init__(self, sees: float) -> None:
        super().__init__()
        self.sees = sees

    def forward(self, seen: Tensor, t: Tensor) -> Any:
        x_t, mean = seen.chunk(2, dim=1)
        return SimpleNamespace(sample=self.sees * (mean + x_t.clamp(-1, 1)))


def prior(sees: float = 0.1, latent: bool = False) -> Prior:
    abar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)
    coder: Any = SimpleNamespace(channels=3) if latent else None
    return Prior(Grey(sees), abar, "sample", SIZE, SIZE, autocast=False, autoencoder=coder, conditional=True)


def images(count: int, name: str = "images") -> Tensor:
    return torch.rand(count, 3, SIZE, SIZE, generator=generator(0, name))


def made(users: int, draws: int = 4) -> list[Reconstruction]:
    drawn = [images(draws, f"draws-{user}") for user in range(users)]
    means = images(users, "means")
    return [Reconstruction(d[:1], torch.ones(1), 0.0, 0.0, d, mean) for d, mean in zip(drawn, means, strict=True)]


@pytest.mark.parametrize("blur", BLURS)
def test_of_a_prior_that_sees_nothing_the_replaced_picture_is_the_blurred_mean_alone(blur: float) -> None:
    mean, noise = images(2) * 2 - 1, torch.randn(2, 3, SIZE, SIZE, generator=generator(0, "noise"))
    assert torch.allclose(replace_low(prior(0), mean, noise, blur), gaussian_blur(mean, blur), atol=1e-5)
    assert torch.allclose(replace_low(prior(0.1), mean, noise, 0), mean, atol=1e-5)  # all is low frequency
    added = replace_low(prior(0.1), mean, noise, blur) - gaussian_blur(mean, blur)
    assert added.abs().max() > 0.01
    assert gaussian_blur(added, blur).square().mean() < added.square().mean() / 2  # what is new is of high frequency


def test_low_frequencies_of_a_latent_prior_are_not_replaced() -> None:
    with pytest.raises(ValueError, match="in pixels"):
        replace_low(prior(latent=True), images(1), images(1), 1.0)


def test_every_finish_is_pictures_of_all_users_and_tells_its_cost() -> None:
    own = made(3)
    found = {one.name: one for one in finishes.finishes(prior(), own, 20, 0, None)}
    assert [one.passes for one in found.values()] == [
        0,
        0,
        *[REVERSE] * len(BLURS),
        84,
        84,
        21,
        84,
        20,
        *(4 * (n + 1) for n in STEPS),
        *[84] * (len(CONTRASTS) + len(STRENGTHS)),
    ]
    for one in found.values():
        assert one.pictures.shape[1:] == (3, 3, SIZE, SIZE)
        assert bool(((one.pictures >= 0) & (one.pictures <= 1)).all())
        assert one.kind in finishes_plot.KINDS
    assert torch.equal(found["the mean"].pictures[0, 1], own[1].determined)
    assert torch.equal(found["the most photographic of 4 draws: the answer"].pictures[0, 1], own[1].images[0])
    assert torch.equal(found["any one draw"].pictures[:, 2], own[2].draws)
    assert torch.allclose(found["the mean of 4 draws"].pictures[0, 2], own[2].draws.mean(0))


def test_a_user_s_finishes_do_not_depend_on_who_comes_after() -> None:
    alone, together = (list(finishes.finishes(prior(), made(users), 20, 0, None)) for users in (1, 3))
    for one, all_of_them in zip(alone, together, strict=True):
        assert torch.allclose(one.pictures[:, 0], all_of_them.pictures[:, 0], atol=1e-6)


def test_a_run_without_draws_is_told_what_it_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = fake_run(tmp_path / "made", users=2, rounds=1)
    assert main([str(run.root), "--out", str(tmp_path / "out.json")]) == 2
    assert "holds no draws of an attack 'user_diffusion'; give a finished run" in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()


@pytest.mark.slow
def test_the_pictures_of_a_run_are_judged_as_the_run_judged_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_prior(tmp_path / "prior", network=unet(in_channels=6))
    (tmp_path / "prior" / "training.json").write_text(json.dumps({"condition": "mean face"}))
    attacks = {"user_diffusion": {"prior": str(tmp_path / "prior"), "steps": 2, "draws": 3, "draw_steps": 2}}
    sections = {"leakage": {"gallery_size": 8, "attributes": "none"}, "workers": {"backend": "inprocess"}}
    config = tiny_config(attacks=attacks, federation={"rounds": 1}, model={"name": "mlp"}, **sections)
    run = RunFolder(tmp_path / "run")
    outcome = pipeline.complete(config, run, lambda *_: None, lambda _: None)
    assert outcome.problems == []
    out, plot = tmp_path / "out.json", tmp_path / "out.png"
    assert main([str(run.root), "--out", str(out), "--plot", str(plot)]) == 0
    record = json.loads(out.read_text())
    assert record["command"].startswith("python -m experiments.studies.finishes ")
    rows = {row["finish"]: row for row in record["rows"]}
    table = capsys.readouterr().out
    assert all(f"| {name} |" in table for name in rows)
    assert plot.read_bytes().startswith(b"\x89PNG")
    own = pd.read_parquet(run.leakage).query("attack == 'user_diffusion'")
    for finish, arm in {
        "a photo": "own_photo",
        "the mean of the photos": "own_mean",
        "the mean": "determined",
        "the most photographic of 3 draws: the answer": "attack",
    }.items():
        measured, row = own[own["arm"] == arm], rows[finish]
        assert row["users"] == len(measured) == 4
        assert row["named_first"] == (measured["rank"] == 1).sum()
        assert row["face_probability"] is None  # the detector finds no faces in photos of noise
        for column in ("facial_similarity", "sharpness_fine"):
            assert row[column]["mean"] == pytest.approx(measured[column].mean(), abs=1e-3)
        for column in SWD[:2]:
            assert row[column] == pytest.approx(measured[column].iloc[0], abs=1e-3)
    assert rows["any one draw"]["facial_similarity"]["mean"] == pytest.approx(
        own.query("arm == 'attack'")["draws_similarity"].mean(), abs=1e-3
    )
