import json
import shutil

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel

from attacker import train_prior
from attacker.prior import load_prior
from fl_sim.seeds import generator

CPU = torch.device("cpu")


def photos(count, seed=0, size=16):
    smooth = torch.rand(count, 3, 2, 2, generator=generator(seed, "test"))
    return (torch.nn.functional.interpolate(smooth, size, mode="bilinear") * 255).byte()


def settings(steps, **more):
    return train_prior.Settings(
        steps=steps, batch_size=4, channels=(8, 16), warmup=2, checkpoint_every=3, attention=False, **more
    )


def train(out, steps, seed=0, **more):
    quiet = lambda step, steps, loss: None  # noqa: E731
    return train_prior.train(photos(32), photos(8, 1), out, settings(steps, **more), seed, CPU, {"source": "t"}, quiet)


def weights(out):
    return UNet2DModel.from_pretrained(out / "unet", low_cpu_mem_usage=False).state_dict()


@pytest.mark.slow
def test_a_resumed_training_ends_where_an_undisturbed_one_does(tmp_path):
    train(tmp_path / "whole", 6)
    with pytest.raises(InterruptedError):
        train_prior.train(photos(32), photos(8, 1), tmp_path / "stopped", settings(6), 0, CPU, {}, interrupt_after(4))
    train(tmp_path / "stopped", 6)
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "stopped")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def interrupt_after(last):
    def progress(step, steps, loss):
        if step > last:
            raise InterruptedError

    return progress


def test_the_folder_is_one_that_diffusers_reads_with_pictures_and_facts(tmp_path):
    outcome = train(tmp_path, 2)
    facts = json.loads((tmp_path / "training.json").read_text())
    assert facts["held_out_loss"] == outcome.held_out_loss > 0
    assert facts["source"] == "t"
    assert facts["settings"]["steps"] == 2
    assert UNet2DModel.from_pretrained(tmp_path / "unet", low_cpu_mem_usage=False).config.sample_size == 16
    assert DDPMScheduler.from_pretrained(tmp_path / "scheduler").config.prediction_type == "v_prediction"
    prior = load_prior(str(tmp_path), 16)
    assert all(torch.equal(value, weights(tmp_path)[name].float()) for name, value in prior.unet.state_dict().items())
    assert (tmp_path / "samples.png").stat().st_size > 1000
    assert (tmp_path / "loss.png").stat().st_size > 1000


@pytest.mark.slow
def test_training_lowers_the_held_out_loss(tmp_path):
    few, many = train(tmp_path / "few", 3), train(tmp_path / "many", 60, ema=0.9, learning_rate=2e-3)
    assert many.held_out_loss < 0.8 * few.held_out_loss


def test_mistakes_are_told(tmp_path):
    quiet = lambda step, steps, loss: None  # noqa: E731
    with pytest.raises(ValueError, match="uint8 needed"):
        train_prior.train(torch.rand(4, 3, 16, 16), photos(4), tmp_path, settings(1), 0, CPU, {}, quiet)
    train(tmp_path / "a", 3)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    other = train_prior.Settings(steps=4, batch_size=4, channels=(8, 24), warmup=2, attention=False)
    with pytest.raises(ValueError, match="belongs to another network"):
        train_prior.train(photos(32), photos(8), tmp_path / "b", other, 0, CPU, {}, quiet)


def test_the_global_generator_stays_untouched(tmp_path):
    before = torch.get_rng_state()
    train(tmp_path, 1)
    assert torch.equal(before, torch.get_rng_state())
