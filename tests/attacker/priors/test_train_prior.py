import json
import shutil

import priors
import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel

from attacker.priors import start as prior_start
from attacker.priors import train as train_prior
from attacker.priors.pairs import Album
from attacker.priors.prior import load_prior
from attacker.priors.training_state import CHECKPOINT, State
from fl_sim.config import ConfigError
from fl_sim.seeds import generator

CPU = torch.device("cpu")


def album(count, seed=0, size=16):
    """Smooth pictures, four of each person, who is one of them plus a little of others."""
    coarse = torch.rand(count, 3, 2, 2, generator=generator(seed, "test"))
    coarse = 0.8 * coarse[torch.arange(count) // 4 * 4] + 0.2 * coarse
    photos = (torch.nn.functional.interpolate(coarse, size, mode="bilinear") * 255).byte()
    return Album(photos, torch.arange(count) // 4, torch.arange(count) % 2)


def settings(steps, **more):
    return train_prior.Settings(**{"steps": steps, "batch_size": 4, "warmup": 2, "checkpoint_every": 3, **more})


def quiet(step, steps, loss):
    pass


def train(out, steps, seed=0, start=None, progress=quiet, **more):
    state = State(start or prior_start.fresh(16, (8, 32), seed), out, CPU)
    return train_prior.train(album(32), album(8, 1), state, settings(steps, **more), seed, {"source": "t"}, progress)


def weights(out):
    return UNet2DModel.from_pretrained(out / "unet", low_cpu_mem_usage=False).state_dict()


def interrupt_after(last):
    def progress(step, steps, loss):
        if step > last:
            raise InterruptedError

    return progress


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Few held-out pairs and pictures."""
    monkeypatch.setattr(train_prior, "HELD_OUT_BATCHES", 2)
    monkeypatch.setattr(train_prior, "SHEET", (1, 1, 4))
    monkeypatch.setattr(train_prior, "SAMPLING_STEPS", 3)


def test_a_resumed_training_ends_where_an_undisturbed_one_does(tmp_path):
    train(tmp_path / "whole", 6)
    with pytest.raises(InterruptedError):
        train(tmp_path / "stopped", 6, progress=interrupt_after(4))
    train(tmp_path / "stopped", 6)
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "stopped")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_the_folder_is_a_conditional_prior_with_pictures_and_facts(tmp_path):
    outcome = train(tmp_path, 2)
    facts = json.loads((tmp_path / "training.json").read_text())
    assert facts["held_out_loss"] == outcome.held_out_loss > 0
    assert facts["held_out_loss_given_mean"] == outcome.held_out_loss_given_mean > 0
    assert (facts["source"], facts["condition"], facts["start"]) == ("t", "mean face", None)
    assert facts["settings"]["steps"] == 2
    assert UNet2DModel.from_pretrained(tmp_path / "unet", low_cpu_mem_usage=False).config.sample_size == 16
    assert DDPMScheduler.from_pretrained(tmp_path / "scheduler").config.prediction_type == "v_prediction"
    prior = load_prior(str(tmp_path), 16)
    assert prior.conditional
    assert all(torch.equal(value, weights(tmp_path)[name].float()) for name, value in prior.unet.state_dict().items())
    assert (tmp_path / "samples.png").stat().st_size > 1000
    assert (tmp_path / "loss.png").stat().st_size > 1000


@pytest.mark.slow
def test_training_lowers_the_held_out_loss_and_a_mean_face_lowers_it_further(tmp_path):
    fast = {"ema": 0.9, "learning_rate": 2e-3, "batch_size": 16}
    few, many = train(tmp_path / "few", 3), train(tmp_path / "many", 150, **fast)
    assert many.held_out_loss < 0.8 * few.held_out_loss
    assert many.held_out_loss_given_mean < 0.95 * many.held_out_loss


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_a_training_begins_at_another_prior_and_keeps_what_it_predicts(prediction, tmp_path):
    priors.write_prior(tmp_path / "old", noise=priors.scheduler(prediction))
    start = prior_start.of_prior(str(tmp_path / "old"), 16)
    train(tmp_path / "new", 1, start=start, learning_rate=0.0)
    new = load_prior(str(tmp_path / "new"), 16)
    old = load_prior(str(tmp_path / "old"), 16)
    assert (new.prediction_type, new.steps, new.conditional) == (prediction, 50, True)
    x, t = torch.randn(2, 3, 16, 16, generator=generator(0, "x")), torch.tensor([2, 8])
    assert torch.allclose(new.predict_x0(x, t), old.predict_x0(x, t), atol=0.05)  # the new one is stored with 16 bits
    assert json.loads((tmp_path / "new" / "training.json").read_text())["start"] == "old"
    assert "_name_or_path" not in json.loads((tmp_path / "new" / "unet" / "config.json").read_text())


def test_a_prior_that_predicts_a_variance_too_keeps_those_channels(tmp_path):
    network, noise = priors.unet(3, out_channels=6), priors.scheduler(variance_type="learned_range")
    priors.write_prior(tmp_path / "old", network, noise)
    train(tmp_path / "new", 1, start=prior_start.of_prior(str(tmp_path / "old"), 16))
    assert load_prior(str(tmp_path / "new"), 16).conditional


def test_the_loss_of_each_prediction_is_nothing_for_a_network_that_knows_the_answer():
    photos = torch.rand(4, 3, 16, 16) * 2 - 1
    schedule = prior_start.fresh(16, (8, 32), 0).schedule

    def knows(kind):
        def predict(given, times):
            alphas = schedule.alphas_cumprod[times][:, None, None, None]
            noise = (given[:, :3] - alphas.sqrt() * photos) / (1 - alphas).sqrt()
            return {"epsilon": noise, "sample": photos}.get(kind, alphas.sqrt() * noise - (1 - alphas).sqrt() * photos)

        return predict

    for kind in ("epsilon", "sample", "v_prediction"):
        loss = train_prior._Loss(schedule.__class__(schedule.alphas_cumprod, kind, False), False, CPU)
        assert float(loss(knows(kind), photos, photos * 0, 0, 0)) < 1e-6
        assert float(loss(knows("sample" if kind == "epsilon" else "epsilon"), photos, photos * 0, 0, 0)) > 0.01


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    train(tmp_path / "a", 3)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    with pytest.raises(ConfigError, match="belongs to another network"):
        train(tmp_path / "b", 4, start=prior_start.fresh(16, (8, 64), 0))
    priors.write_prior(tmp_path / "old")
    with pytest.raises(ConfigError, match="began at random weights, not at"):
        train(tmp_path / "b", 4, start=prior_start.of_prior(str(tmp_path / "old"), 16))
    checkpoint = tmp_path / "b" / CHECKPOINT
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    with pytest.raises(ConfigError, match="is damaged"):
        train(tmp_path / "b", 4)


def test_a_loss_that_is_not_finite_is_told(tmp_path):
    with pytest.raises(ValueError, match="give a lower --learning-rate"):
        train(tmp_path, 6, learning_rate=1e30)


def test_the_global_generator_stays_untouched(tmp_path):
    before = torch.get_rng_state()
    train(tmp_path, 1)
    assert torch.equal(before, torch.get_rng_state())
