"""The imprint gives photos back as they are; the server that sends it trains nothing, and says so."""

from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.serverapp.strategy import FedAvg
from grids import initial_arrays, train
from tiny_faces import open_tiny, tiny_config

from attacker.attack import Attacker
from attacker.attacks import imprint, rewriter
from attacker.attacks.imprint import read_bins
from attacker.capture.plugin import MaliciousServer
from attacker.capture.reply_checks import ReplySchema
from attacker.capture.store import CaptureStore
from attacker.observation import Observation, Reconstruction
from clients.local_training import local_gradient
from clients.user import Faces
from experiments.plan.setup import prepare
from experiments.run.federation import run_federation
from experiments.run.pipeline import preflight, threat_model
from fl_sim.config import Config, ConfigError
from fl_sim.federation.strategy import FedSGD
from fl_sim.initial_model import initial_model
from fl_sim.models import build
from fl_sim.runs import RunFolder
from fl_sim.seeds import generator
from fl_sim.updates import Update

SIZE = 32
# The mean pixel of uniform noise varies by 1 / sqrt(3 * 3 * 32^2); finer steps take a larger gain.
NOISE = {"mean": 0.0, "std": 0.0104, "gain": 1e6}
COARSE = {**NOISE, "gain": 10.0}


def photos(count: int) -> torch.Tensor:
    """Images (count, 3, SIZE, SIZE) in [0, 1] whose mean pixels are as far apart as those of photos are."""
    draw = generator(0, "photos")
    level = torch.linspace(0.25, 0.65, count)[torch.randperm(count, generator=draw)]
    return (level[:, None, None, None] + 0.3 * (torch.rand(count, 3, SIZE, SIZE, generator=draw) - 0.5)).clamp(0, 1)


def reconstruct(model: str, shown: torch.Tensor, scale: float = 1.0) -> Reconstruction:
    network = build(model, 2, SIZE, generator(0, "model"))
    sent = imprint.rewrite(1, dict(network.state_dict()), imprint.Settings(), SIZE)
    network.load_state_dict(sent)
    gradient = local_gradient(network, Faces(shown, torch.arange(len(shown)) % 2, {}))
    seen = Observation(1, 0, sent, {name: scale * value for name, value in gradient.items()}, len(shown), None)
    attacker = Attacker(network, SIZE, 2, None, torch.device("cpu"))
    (result,) = imprint.attack([seen], attacker, imprint.Settings(), [generator(0)], lambda done, total: None)
    return result


@pytest.mark.parametrize("model", ["mlp", "imprint_convnet"])
def test_photos_that_are_alone_in_their_bin_come_back_as_they_are(model: str) -> None:
    shown = photos(20)
    result = reconstruct(model, shown)
    errors = (shown[:, None] - result.images[None]).square().mean((2, 3, 4)).min(1).values
    assert float((errors < 1e-6).float().mean()) > 0.8  # 60 dB
    assert len(result.images) <= 20
    assert float(result.weights.sum()) == pytest.approx(1)
    assert torch.equal(result.images, reconstruct(model, shown).images)


def test_photos_that_share_a_bin_come_out_as_their_mean() -> None:
    rows, biases = torch.zeros(4, 6), torch.zeros(4)
    for photo, above in ((torch.full((6,), 0.2), 1), (torch.full((6,), 0.6), 1), (torch.full((6,), -0.5), 3)):
        rows[: above + 1] += 0.1 * photo
        biases[: above + 1] += 0.1
    assert torch.allclose(read_bins(rows, biases, 3), torch.tensor([[0.4], [-0.5]]).expand(2, 6), atol=1e-6)


@pytest.mark.parametrize("scale", [0.0, float("nan")])
def test_an_update_that_shows_nothing_is_one_grey_image(scale: float) -> None:
    result = reconstruct("mlp", photos(3), scale)
    assert torch.equal(result.images, torch.full((1, 3, SIZE, SIZE), 0.5))


def malicious(**sections: Any) -> Config:
    table = {"attacks": {"imprint": NOISE}, "threat_model": {"server": "malicious"}, "model": {"name": "mlp"}}
    return tiny_config(**{**table, **sections})


def same(left: Update, right: Update) -> bool:
    return list(left) == list(right) and all(torch.equal(left[name], right[name]) for name in left)


def plugin(config: Config, inner: Any, folder: Path) -> tuple[MaliciousServer, CaptureStore]:
    store, section = CaptureStore(RunFolder(folder)), config.federation
    names = [name for name, _ in initial_model(config, 2)[0].named_parameters()]
    schema = ReplySchema(names, section.update, 0.1, section.max_norm)
    return MaliciousServer(inner, store, schema, 60, rewrite=rewriter(config)), store


@pytest.mark.parametrize(("inner", "update"), [("FedSGD", "gradient"), ("FedSGD", "weights"), ("FedAvg", "weights")])
def test_users_answer_to_the_rewritten_model_and_the_global_one_stays(inner: str, update: str, tmp_path: Path) -> None:
    config = malicious(federation={"update": update}, attacks={"imprint": COARSE})
    strategy = FedSGD(0.1, update) if inner == "FedSGD" else FedAvg(min_train_nodes=1, min_available_nodes=1)
    server, store = plugin(config, strategy, tmp_path)
    final = train(server, config)
    store.wait()
    honest = dict(initial_arrays(config).to_torch_state_dict())
    assert same(dict(final.to_torch_state_dict()), honest)
    assert same(store.parameters(2), honest)
    assert server.accepted == 4
    sent = imprint.rewrite(2, honest, imprint.Settings(**COARSE), 32)
    for user in range(4):
        seen = store.observation(2, user)
        assert same(seen.parameters, sent)
        model = initial_model(config, 2)[0]
        model.load_state_dict(sent)
        gradient = local_gradient(model, open_tiny(config.dataset, config.seed).user(user).private)
        rounding = 1e-6 if update == "gradient" else 1e-3  # of weights near 10, over the learning rate
        for name, value in gradient.items():
            torch.testing.assert_close(seen.gradient[name], value, rtol=1e-5, atol=rounding)


def test_a_federation_under_a_malicious_server_gives_photos_away(tmp_path: Path) -> None:
    config, run = malicious(dataset={"photos": 6}, federation={"rounds": 1}), RunFolder(tmp_path)
    preflight(prepare(tiny_config(**{**config.model_dump(), "workers": {"backend": "none"}})), lambda sentence: None)
    run_federation(prepare(config), run)
    attacker = Attacker(initial_model(config, 2)[0], 32, 2, None, torch.device("cpu"))
    users = range(4)
    seen = [CaptureStore(run).observation(1, user) for user in users]
    found = imprint.attack(seen, attacker, imprint.Settings(), [generator(0)] * 4, lambda done, total: None)
    shares = []
    for user, result in zip(users, found, strict=True):
        private = open_tiny(config.dataset, config.seed).user(user).private.photos
        errors = (private[:, None] - result.images[None]).square().mean((2, 3, 4)).min(1).values
        shares.append(float((errors < 1e-3).float().mean()))
    assert sum(shares) / 4 > 0.8
    assert threat_model(prepare(config))["server"] == "malicious"


def test_what_does_not_go_together_is_refused_before_anything_starts() -> None:
    with pytest.raises(ConfigError, match=r"set threat_model.server = 'malicious'"):
        preflight(prepare(malicious(threat_model={"server": "honest_but_curious"})), lambda sentence: None)
    with pytest.raises(ConfigError, match="but 0 attacks rewrite the model"):
        preflight(prepare(malicious(attacks={})), lambda sentence: None)
    with pytest.raises(ConfigError, match=r"set model.name to mlp or imprint_convnet"):
        preflight(prepare(malicious(model={"name": "convnet"})), lambda sentence: None)
