"""Whatever fails in a run fails before it: each part is called once, and named where it is at fault."""

import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import pytest
import torch
from priors import scheduler, unet, write_prior
from tiny_faces import tiny_config
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from attacker import attacks
from attacker.inversion.model_check import check_model
from attacker.observation import Observation, Reconstruction
from attacker.workers.jobs import loaded_prior
from experiments.evaluate import image_metrics
from experiments.plan.setup import prepare
from experiments.run import preflight
from experiments.run.preflight import preflight as check
from fl_sim import models
from fl_sim.config import Config, ConfigError, Leakage
from fl_sim.models import MODELS, BatchNorm


@pytest.fixture(autouse=True)
def forgetful() -> Iterator[None]:
    """What other tests have tried is tried again."""
    preflight.passed.clear()
    preflight._look.cache_clear()
    yield
    preflight.passed.clear()
    preflight._look.cache_clear()


def config(**sections: object) -> Config:
    table = {"leakage": {"gallery_size": 8}, "workers": {"backend": "local"}, "attacks": {"inverting_gradients": {}}}
    return tiny_config(**{**table, **sections})


def told(config: Config) -> list[str]:
    notes: list[str] = []
    check(prepare(config), notes.append)
    return notes


class NoDerivative(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: FunctionCtx, slope: Tensor) -> Tensor:
        raise RuntimeError("no second derivative here")


class Loud(torch.autograd.Function):
    """x^3, with a backward pass that autograd refuses to go through."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: FunctionCtx, slope: Tensor) -> Tensor:
        return NoDerivative.apply(3 * ctx.saved_tensors[0] ** 2 * slope)


class Silent(Loud):
    """The same, whose second derivative autograd leaves out without a word."""

    backward = staticmethod(once_differentiable(lambda ctx, slope: 3 * ctx.saved_tensors[0] ** 2 * slope))


class Layer(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def net_with(function: Callable[[Tensor], Tensor], num_classes: int) -> nn.Module:
    layers = nn.Conv2d(3, 4, 4, stride=4), Layer(function), nn.GELU(), nn.Flatten(), nn.Linear(256, num_classes)
    return nn.Sequential(*layers)


def loud_net(num_classes: int, image_size: int) -> nn.Module:
    return net_with(Loud.apply, num_classes)


def silent_net(num_classes: int, image_size: int) -> nn.Module:
    return net_with(Silent.apply, num_classes)


def infinite_net(num_classes: int, image_size: int) -> nn.Module:
    return net_with(lambda x: x * math.inf, num_classes)


@dataclass(frozen=True)
class Settings:
    steps: int = 10_000
    rounds: int = 1


@dataclass
class FakeAttack:
    """An attack module that remembers what it was given and answers with grey pictures, or what `answer` makes."""

    answer: Callable[[int], object] = lambda size: [
        Reconstruction(torch.full((1, 3, size, size), 0.5), torch.ones(1), 0.0, 0.0)
    ]
    steps: list[int] = field(default_factory=list)
    seen: list[Observation] = field(default_factory=list)

    def attack(self, observations, attacker, settings, generators, progress):
        self.steps.append(settings.steps)
        self.seen += observations
        return self.answer(attacker.image_size)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeAttack:
    module, made = ModuleType("fake.attack"), FakeAttack()
    module.Settings, module.attack = Settings, made.attack  # type: ignore[attr-defined]
    module.needs = lambda settings: attacks.Needs(rounds=settings.rounds)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fake", ModuleType("fake"))
    monkeypatch.setitem(sys.modules, "fake.attack", module)
    return made


FAKE = {"mine": {"name": "fake.attack"}}


def test_each_attack_takes_one_step_once(fake: FakeAttack) -> None:
    told(config(attacks=FAKE))
    told(config(attacks=FAKE, name="another cell", workers={"backend": "local", "count": 2}))  # no reason to try again
    assert fake.steps == [1]
    told(config(attacks={"mine": {**FAKE["mine"], "rounds": 3}}))
    assert [one.server_round for one in fake.seen[-1].history] == [1]


def test_an_attack_sees_what_the_threat_model_grants(fake: FakeAttack) -> None:
    told(config(attacks=FAKE))
    plain = fake.seen[-1]
    assert (plain.label_proportions, plain.local, plain.statistics, plain.defenses) == (None, None, None, ())
    assert set(plain.gradient) <= set(plain.parameters)
    told(
        config(
            attacks={"mine": {**FAKE["mine"], "knowledge": "parameters"}},
            model={"name": "tiny_faces:normed_net"},
            federation={"local_epochs": 3, "batch_size": 2},
            threat_model={"labels": "known", "batch_norm_statistics": True},
            defenses=[{"name": "clip", "max_norm": 1.0}],
        )
    )
    granted = fake.seen[-1]
    assert granted.label_proportions is not None
    assert granted.label_proportions.tolist() == [0.5, 0.5]
    assert granted.local is not None
    assert (granted.local.epochs, granted.local.batch_size) == (3, 2)
    assert granted.statistics
    assert [one.max_norm for one in granted.defenses] == [1.0]


def boom(size: int) -> object:
    raise RuntimeError("no such kernel")


def drawn(size: int, draws: Tensor | None, determined: Tensor | None = None) -> list[Reconstruction]:
    grey = torch.full((1, 3, size, size), 0.5)
    return [Reconstruction(grey, torch.ones(1), 0.0, 0.0, draws, determined)]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (boom, "RuntimeError: no such kernel"),
        (lambda size: [], "not with one Reconstruction"),
        (lambda size: [torch.zeros(1)], "not with one Reconstruction"),
        (lambda size: [Reconstruction(torch.zeros(1, 3, 8, 8), torch.ones(1), 0.0, 0.0)], r"\(1, 3, 8, 8\)"),
        (lambda size: [Reconstruction(torch.full((1, 3, size, size), math.nan), torch.ones(1), 0.0, 0.0)], "finite"),
        (lambda size: drawn(size, torch.rand(3, size, size)), r"draws has shape \(3, .*, needed is \(n, 3, 32, 32\)"),
        (lambda size: drawn(size, torch.full((2, 3, size, size), math.nan)), "pixels of its draws are finite"),
        (lambda size: drawn(size, None, torch.full((3, size, size), math.inf)), "pixels of its determined are finite"),
    ],
)
def test_an_attack_that_fails_is_named_before_the_run(
    fake: FakeAttack, answer: Callable[[int], object], words: str
) -> None:
    fake.answer = answer
    with pytest.raises(ConfigError, match=f"attack 'mine' fails on a made-up update.*{words}"):
        told(config(attacks=FAKE))
    told(config(attacks=FAKE, workers={"backend": "none"}))  # nobody attacks


@pytest.mark.parametrize(
    ("name", "words"),
    [("loud_net", "fails on 4 images of noise: no second derivative here"), ("silent_net", "no second derivative")],
)
def test_a_model_without_second_derivative_is_named_not_the_attack(name: str, words: str) -> None:
    model = {"name": f"{__name__}:{name}"}
    with pytest.raises(ConfigError, match=f"{name}' .*{words}"):
        told(config(model=model))
    told(config(model=model, attacks={"prior_only": {}}))  # which does not look at the model


SMALL = sorted({*MODELS, "tiny_faces:normed_net"} - {"resnet18"})


@pytest.mark.parametrize("name", [*SMALL, pytest.param("resnet18", marks=pytest.mark.slow)])
@pytest.mark.parametrize("norm", ["eval", "train"])
def test_models_with_kinks_and_norms_have_their_second_derivative(name: str, norm: BatchNorm) -> None:
    check_model(models.build(name, 2, 32, torch.Generator().manual_seed(0), norm), name, 32, 2)


def test_a_model_whose_gradient_is_not_finite_is_named_whoever_attacks() -> None:
    with pytest.raises(ConfigError, match="infinite_net' has a gradient of NaN or Inf"):
        told(config(model={"name": f"{__name__}:infinite_net"}, workers={"backend": "none"}))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in attacks.available() if name != "imprint"])
def test_every_attack_of_ours_passes_on_a_model_of_ours(name: str) -> None:
    model = "mlp" if name == "cocktail_party" else "convnet"
    told(config(attacks={name: {}}, dataset={"image_size": 32}, model={"name": model}))


def test_an_attack_that_rewrites_the_model_sees_an_update_of_it() -> None:
    told(config(attacks={"imprint": {}}, model={"name": "imprint_convnet"}, threat_model={"server": "malicious"}))


def test_lpips_weights_that_are_none_are_told_before_the_run(tmp_path: Path) -> None:
    (tmp_path / image_metrics.ALEXNET).write_bytes(b"junk")
    with pytest.raises(ConfigError, match="LPIPS fails with"):
        told(config(leakage={"gallery_size": 8, "lpips_weights": str(tmp_path)}))


def test_the_judges_see_public_people() -> None:
    assert any("4 public people have two photos" in note for note in told(config()))


def test_without_prior_only_the_missing_control_is_announced() -> None:
    assert any("No attack is prior_only" in note for note in told(config()))
    both = {"inverting_gradients": {}, "drawn": {"name": "prior_only"}}
    assert not any("No attack is prior_only" in note for note in told(config(attacks=both)))


def test_too_few_people_for_the_gallery_is_told_before_the_run() -> None:
    with pytest.raises(ConfigError, match="only 8 people"):
        told(config(leakage={"gallery_size": 100}))


def test_a_judge_that_fails_on_the_photos_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        preflight.embedders, "open_embedder", lambda leakage: lambda photos: photos.flatten(1) * math.nan
    )
    with pytest.raises(ConfigError, match=r"leakage\.embedder 'auto' gives numbers that are not finite"):
        told(config())


def test_the_default_config_says_nothing_of_its_judges() -> None:
    notes = preflight._judges(prepare(Config(leakage=Leakage())))
    assert [note for note in notes if "LPIPS" not in note] == []


def test_a_prior_that_can_draw_no_photos_of_a_mean_face_is_told_of(tmp_path: Path) -> None:
    write_prior(tmp_path)
    notes = told(config(attacks={"user_diffusion": {"prior": str(tmp_path), "eigenface_share": 0.0}}))
    assert sum("has not learnt mean faces" in note for note in notes) == 1
    notes = told(config(attacks={"user_diffusion": {"prior": str(tmp_path), "eigenface_share": 0.0, "draws": 0}}))
    assert not any("has not learnt mean faces" in note for note in notes)


def test_metrics_that_nobody_would_serve_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"workers.metrics_port is 9000, but .* 'inprocess' serves no metrics"):
        told(config(workers={"backend": "inprocess", "metrics_port": 9000}))


def test_a_prior_that_was_trained_on_is_read_anew(tmp_path: Path) -> None:
    """In one process, as a notebook trains a prior, runs, trains it further, and runs again."""
    cpu = torch.device("cpu")
    write_prior(tmp_path / "prior", unet(), scheduler())
    before = loaded_prior(str(tmp_path / "prior"), 16, cpu)
    assert loaded_prior(str(tmp_path / "prior"), 16, cpu) is before
    write_prior(tmp_path / "prior", unet(layers_per_block=2), scheduler())
    after = loaded_prior(str(tmp_path / "prior"), 16, cpu)
    assert len(list(after.unet.parameters())) > len(list(before.unet.parameters()))
