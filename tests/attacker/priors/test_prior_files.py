"""A prior's files are taken at their word or refused: no tensor of a prior is ever drawn at random."""

import shutil
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from priors import edit, scheduler, unet, write_prior, write_vae, write_vqvae
from safetensors.torch import load_file, save_file

from attacker.priors.prior import load_prior
from fl_sim.config import ConfigError

PLAIN = "diffusion_pytorch_model.safetensors"


def rewrite(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def refusal(folder: Path) -> str:
    with pytest.raises(ConfigError) as failure:
        load_prior(str(folder), 16)
    assert "\n" not in str(failure.value)
    return str(failure.value)


def the_same(prior: Any, network: Any) -> bool:
    ours, theirs = prior.unet.state_dict(), network.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key].float()) for key in ours)


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_weights_that_do_not_fill_the_network_are_refused_with_their_names(tmp_path: Path, part: str) -> None:
    write_prior(tmp_path, unet(4))
    write_vae(tmp_path / "vae")
    load_prior(str(tmp_path), 16)
    path = tmp_path / part / PLAIN
    first = next(key for key in sorted(load_file(path)) if key.endswith("conv_in.weight"))
    rewrite(path, lambda tensors: tensors.pop(first))
    message = refusal(tmp_path)
    assert f"the weights in {tmp_path / part} do not fit its config.json" in message
    assert f"missing are {first};" in message
    rewrite(path, lambda tensors: tensors.update({first: torch.zeros(1), "stranger": torch.zeros(1)}))
    message = refusal(tmp_path)
    assert "of another network are stranger;" in message
    assert f"of another shape are {first} (1,) instead of (8, " in message


def test_weights_under_other_names_are_refused(tmp_path: Path) -> None:
    write_prior(tmp_path)
    path = tmp_path / "unet" / PLAIN
    save_file({f"module.{key}": value for key, value in load_file(path).items()}, path)
    message = refusal(tmp_path)
    assert "missing are conv_in.bias, conv_in.weight, " in message
    assert "of another network are module.conv_in.bias, " in message


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    write_prior(tmp_path)
    rewrite(tmp_path / "unet" / PLAIN, lambda tensors: tensors["conv_in.weight"].fill_(torch.inf))
    assert "are not finite (conv_in.weight)" in refusal(tmp_path)


def test_weights_of_half_precision_alone_are_read(tmp_path: Path) -> None:
    write_prior(tmp_path)
    shutil.rmtree(tmp_path / "unet")
    network = unet().half()
    network.save_pretrained(tmp_path / "unet", variant="fp16")
    assert [path.name for path in (tmp_path / "unet").glob("*.safetensors")] == [
        "diffusion_pytorch_model.fp16.safetensors"
    ]
    assert the_same(load_prior(str(tmp_path), 16), network)
    # Beside the plain ones they are left aside; beside others without them somebody must choose.
    unet().save_pretrained(tmp_path / "unet", variant="ema")
    assert "the variants ema, fp16 of its weights" in refusal(tmp_path)
    unet().save_pretrained(tmp_path / "unet")
    assert the_same(load_prior(str(tmp_path), 16), unet())


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_weights_in_several_files_are_read_and_each_is_checked(tmp_path: Path, variant: str | None) -> None:
    write_prior(tmp_path)
    (tmp_path / "unet" / PLAIN).unlink()
    unet().save_pretrained(tmp_path / "unet", max_shard_size="5KB", variant=variant)
    shards = sorted((tmp_path / "unet").glob("*.safetensors"))
    assert len(shards) > 1
    assert the_same(load_prior(str(tmp_path), 16), unet())
    shards[-1].write_bytes(shards[-1].read_bytes()[:-1])
    assert f"{shards[-1]} is damaged" in refusal(tmp_path)
    shards[-1].unlink()
    assert f"{tmp_path / 'unet'} cannot be loaded" in refusal(tmp_path)


def test_weights_with_the_names_of_older_diffusers_are_read(tmp_path: Path) -> None:
    write_prior(tmp_path)
    path = tmp_path / "unet" / PLAIN
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def renamed(key: str) -> str:
        return next((key.replace(f".{new}.", f".{old}.") for new, old in older.items() if f".{new}." in key), key)

    tensors = load_file(path)
    assert any(renamed(key) != key for key in tensors)
    save_file({renamed(key): value for key, value in tensors.items()}, path)
    assert the_same(load_prior(str(tmp_path), 16), unet())


def test_pickles_are_refused(tmp_path: Path) -> None:
    write_prior(tmp_path)
    (tmp_path / "unet" / PLAIN).unlink()
    unet().save_pretrained(tmp_path / "unet", safe_serialization=False)
    message = refusal(tmp_path)
    assert "diffusion_pytorch_model.bin are a pickle" in message
    assert "save_pretrained it as safetensors" in message


def test_a_folder_without_weights_or_configs_is_refused(tmp_path: Path) -> None:
    write_prior(tmp_path)
    (tmp_path / "unet" / PLAIN).unlink()
    assert f"has no {PLAIN}" in refusal(tmp_path)
    (tmp_path / "scheduler" / "scheduler_config.json").unlink()
    assert "it has no scheduler_config.json" in refusal(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"_class_name": 3}', "\udcff"])
def test_a_config_that_says_nothing_is_refused(tmp_path: Path, text: str) -> None:
    write_prior(tmp_path)
    (tmp_path / "unet" / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert str(tmp_path / "unet" / "config.json") in refusal(tmp_path)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"_class_name": "UNet2DConditionModel"}, "is of UNet2DConditionModel, which needs a text"),
        ({"_class_name": "DiTTransformer2DModel"}, "is of DiTTransformer2DModel; a prior is a UNet2DModel"),
        ({"num_class_embeds": 10}, r"class-conditional network \(num_class_embeds = 10\)"),
        ({"class_embed_type": "identity"}, r"class-conditional network \(class_embed_type = identity\)"),
        ({"center_input_sample": True}, r"images in \[0, 1\]"),
        ({"time_embedding_type": "fourier"}, "of a score network"),
        ({"time_embedding_type": "learned", "num_train_timesteps": 20}, "knows 20 steps, its scheduler 50"),
        ({"sample_size": None}, "says sample_size = null; only square"),
        ({"sample_size": [16, 24]}, r"says sample_size = \[16, 24\]; only square images"),
        ({"sample_size": "16"}, "says sample_size = "),
        ({"sample_size": True}, "says sample_size = "),
        ({"sample_size": [[16], [16]]}, "says sample_size = "),
        ({"sample_size": []}, "says sample_size = "),
        ({"sample_size": 17}, "sample_size = 17, which 2 levels cannot halve 1 times"),
        ({"block_out_channels": [16, 16]}, "of another shape"),
        ({"block_out_channels": 8}, "cannot be loaded as UNet2DModel"),
        ({"time_embedding_type": "learned", "num_train_timesteps": "x"}, "cannot be loaded as UNet2DModel"),
        ({"block_out_channels": [8, 8, 8]}, "cannot be loaded as UNet2DModel"),
        ({"down_block_types": ["NoBlock", "NoBlock"]}, "cannot be loaded as UNet2DModel .*NoBlock"),
    ],
)
def test_networks_that_are_no_function_of_noisy_image_and_step_are_refused(
    tmp_path: Path, values: dict[str, Any], says: str
) -> None:
    write_prior(tmp_path)
    edit(tmp_path / "unet" / "config.json", **values)
    with pytest.raises(ConfigError, match=says):
        load_prior(str(tmp_path), 16)


def test_a_text_conditional_pipeline_is_refused_by_what_it_is_made_of(tmp_path: Path) -> None:
    write_prior(tmp_path)
    (tmp_path / "model_index.json").write_text(
        '{"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"], '
        '"scheduler": ["diffusers", "DDIMScheduler"], "text_encoder": ["transformers", "CLIPTextModel"], '
        '"safety_checker": [null, null], "requires_safety_checker": false}'
    )
    assert "names text_encoder (CLIPTextModel)" in refusal(tmp_path)


def test_a_real_class_conditional_network_is_refused(tmp_path: Path) -> None:
    write_prior(tmp_path, unet(num_class_embeds=10))
    assert "diffusers does not say which class stands for none" in refusal(tmp_path)


@pytest.mark.parametrize("given", [[16, 16], (16, 16)])
def test_a_size_of_two_equal_sides_is_one(tmp_path: Path, given: Sequence[int]) -> None:
    write_prior(tmp_path, unet(sample_size=given))
    prior = load_prior(str(tmp_path), 32)
    assert prior.size == 16
    x = torch.zeros(1, 3, 32, 32)
    assert prior.sds_gradient(x, torch.zeros(1, 3, 16, 16), torch.tensor([3])).shape == x.shape


def test_parts_are_found_by_the_names_that_the_pipeline_gives_them(tmp_path: Path) -> None:
    unet(3).save_pretrained(tmp_path / "denoiser")
    scheduler().save_pretrained(tmp_path / "noise")
    write_vqvae(tmp_path / "first_stage", scaling_factor=1.0)
    (tmp_path / "model_index.json").write_text(
        '{"_class_name": "LDMPipeline", "denoiser": ["diffusers", "UNet2DModel"], '
        '"noise": ["diffusers", "DDPMScheduler"], "first_stage": ["diffusers", "VQModel"]}'
    )
    prior = load_prior(str(tmp_path), 16)
    assert prior.latent
    assert the_same(prior, unet(3))


def test_parts_may_all_lie_in_the_folder_itself(tmp_path: Path) -> None:
    unet().save_pretrained(tmp_path)
    scheduler().save_pretrained(tmp_path)
    assert the_same(load_prior(str(tmp_path), 16), unet())
    (tmp_path / "scheduler_config.json").unlink()  # the folder of a U-Net alone
    assert "give a prior's folder with unet/ and scheduler/" in refusal(tmp_path)


def test_of_a_hub_name_nothing_large_is_downloaded_before_it_is_known_to_be_of_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub, copy = tmp_path / "hub", tmp_path / "copy"
    write_prior(hub)
    (hub / "unet" / PLAIN).unlink()
    unet().save_pretrained(hub / "unet", variant="fp16")

    def snapshot_download(name: str, allow_patterns: list[str]) -> str:
        for path in hub.rglob("*.*"):
            inside = path.relative_to(hub)
            if any(fnmatch(str(inside), pattern) for pattern in allow_patterns):
                (copy / inside).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, copy / inside)
        return str(copy)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    edit(hub / "unet" / "config.json", num_class_embeds=3)
    with pytest.raises(ConfigError, match="class-conditional"):
        load_prior("somebody/faces", 16)
    assert not list(copy.rglob("*.safetensors"))
    edit(hub / "unet" / "config.json", num_class_embeds=None)
    assert the_same(load_prior("somebody/faces", 16), unet())
