"""The files of a diffusers prior: where its parts lie, what its configs say, and weights that fill its networks.

A prior is a folder as `save_pretrained` writes it, or a hub name. Its parts are found by `model_index.json`, else by
their usual names: `unet/`, `scheduler/` and, of a latent prior, `vae/` or `vqvae/`. A part without a folder of its own
lies in the prior's folder itself, as in google/ddpm-celebahq-256. Of a hub name the configs are looked at first, so
that nothing large is downloaded for a prior that cannot be read. What does not fit is a ConfigError of one sentence.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fl_sim.config import ConfigError
from fl_sim.tensors import check

WEIGHTS = "diffusion_pytorch_model"
CONFIGS = ("model_index.json", "*config.json")  # of a hub repository, what is downloaded first


@dataclass(frozen=True)
class Parts:
    """Where the parts of a prior lie."""

    unet: Path  # folder of its config.json
    scheduler: Path  # folder of its scheduler_config.json
    autoencoder: Path | None  # None: the network works on pixels
    fetch: Callable[[Path], None]  # called before the weights in a part's folder are read


def find_parts(name: str, shipped: Path) -> Parts:
    """The parts of the prior `name`: a folder below `shipped`, any other folder, or a hub name."""
    folder = shipped / name if (shipped / name).is_dir() else Path(name)
    with suppress(RuntimeError):  # of ~somebody who has no home
        folder = folder.expanduser()
    if folder.is_dir():
        return _parts(folder, lambda part: None)
    if name.startswith(("/", ".", "~")) or name.count("/") != 1:
        known = ", ".join(sorted(path.name for path in shipped.glob("*") if path.is_dir()))
        raise ConfigError(
            f"prior {name!r} is neither a folder nor a hub name; give a diffusers folder (fl-sim train-prior writes "
            f"one), a hub name such as google/ddpm-celebahq-256, or a shipped prior ({known or 'none'})"
        )
    root = _download(name, CONFIGS)

    def fetch(part: Path) -> None:
        inside = "" if part == root else f"{part.relative_to(root).as_posix()}/"
        plain = [f"{inside}{WEIGHTS}{end}" for end in (".safetensors", "-*.safetensors", ".safetensors.index.json")]
        _download(name, plain)
        if not any(part.glob(f"{WEIGHTS}*.safetensors")):
            _download(name, [f"{inside}{WEIGHTS}.*.safetensors"])

    return _parts(root, fetch)


def read_config(path: Path) -> dict[str, Any]:
    """The JSON object in `path`, which says `_class_name`."""
    if not path.is_file():
        raise ConfigError(
            f"{path.parent} cannot be loaded: it has no {path.name}; give a prior's folder with unet/ and scheduler/ "
            "as save_pretrained writes them"
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is no JSON ({_first_line(error)}); restore it, or save the prior again") from error
    if not isinstance(config, dict) or not isinstance(config.get("_class_name"), str):
        raise ConfigError(f"{path} does not say what it is of; add the _class_name that save_pretrained writes")
    return config


def read_network(kind: Any, folder: Path) -> Any:
    """The diffusers model of class `kind` in `folder`, in float32, every tensor of it from the weights there."""
    variant = _variant(folder)
    name = WEIGHTS if variant is None else f"{WEIGHTS}.{variant}"
    for path in [*folder.glob(f"{name}.safetensors"), *folder.glob(f"{name}-*.safetensors")]:
        check(path)  # diffusers would not say which file is cut off, nor notice other damage
    try:
        network, info = kind.from_pretrained(
            str(folder),
            variant=variant,
            use_safetensors=True,
            low_cpu_mem_usage=False,
            local_files_only=True,
            output_loading_info=True,  # without it, what the weights lack is drawn at random, and nobody hears of it
            ignore_mismatched_sizes=True,  # which makes them part of that information
        )
    except Exception as error:  # diffusers' errors on wrong configs are of many kinds
        raise ConfigError(
            f"{folder} cannot be loaded as {kind.__name__} ({_first_line(error)}); mend its config.json, or save the "
            "prior again"
        ) from error
    misfits = list(_misfits(info))
    if misfits:
        raise ConfigError(
            f"the weights in {folder} do not fit its config.json: {'; '.join(misfits)}; a prior with such gaps is a "
            "random network, so give the config.json and the weights that were saved together"
        )
    for key, value in network.state_dict().items():
        if not torch.isfinite(value).all():
            raise ConfigError(f"the weights in {folder} are not finite ({key}); save them again, in float32")
    return network.float().eval().requires_grad_(False)


def _parts(root: Path, fetch: Callable[[Path], None]) -> Parts:
    names = {"unet": "unet", "scheduler": "scheduler", **_indexed(root)}
    autoencoder = names.get("autoencoder") or next((name for name in ("vae", "vqvae") if (root / name).is_dir()), None)

    def at(part: str) -> Path:
        return root / part if (root / part).is_dir() else root

    return Parts(at(names["unet"]), at(names["scheduler"]), root / autoencoder if autoencoder else None, fetch)


def _indexed(root: Path) -> dict[str, str]:
    """Roles (unet, scheduler, autoencoder) to the names that the pipeline's `model_index.json` gives them, if any."""
    path = root / "model_index.json"
    if not path.is_file():
        return {}
    names, others = {}, []
    for name, entry in read_config(path).items():
        kind = entry[-1] if isinstance(entry, list) and entry else None
        if not isinstance(kind, str):  # of no component, or of one that is not there
            continue
        role = _role(kind)
        if role is None or role in names:
            others.append(f"{name} ({kind})")
        else:
            names[role] = name
    if others:
        raise ConfigError(
            f"{path} names {', '.join(others)}; a prior is a UNet2DModel, a scheduler and perhaps an autoencoder, and "
            "depends on no text, class or other input"
        )
    return names


def _role(kind: str) -> str | None:
    if kind.endswith("Scheduler"):
        return "scheduler"
    if kind.startswith("UNet"):
        return "unet"
    return "autoencoder" if kind.startswith(("Autoencoder", "VQModel")) else None


def _variant(folder: Path) -> str | None:
    """Which weights in `folder` to read: None for the plain ones, else the only variant, such as "fp16"."""
    if any((folder / f"{WEIGHTS}.safetensors{end}").is_file() for end in ("", ".index.json")):
        return None
    variants = sorted({path.name.split(".")[1].split("-")[0] for path in folder.glob(f"{WEIGHTS}.*.safetensors")})
    if len(variants) == 1:
        return variants[0]
    if variants:
        raise ConfigError(
            f"{folder} cannot be loaded: it holds the variants {', '.join(variants)} of its weights and no "
            f"{WEIGHTS}.safetensors; leave one of them there"
        )
    pickled = sorted(path.name for path in folder.glob("*.bin"))
    if pickled:
        raise ConfigError(
            f"{folder} cannot be loaded: its weights {pickled[0]} are a pickle, which may run code when it is read; "
            "if you trust it, read it with diffusers (use_safetensors=False) and save_pretrained it as safetensors"
        )
    raise ConfigError(f"{folder} cannot be loaded: it has no {WEIGHTS}.safetensors; save the prior there again")


def _misfits(info: dict[str, Any]) -> Iterator[str]:
    """What diffusers' loading information tells of tensors that only one of the two has, or of another shape."""
    if info["missing_keys"]:
        yield f"missing are {_few(info['missing_keys'])}"
    if info["unexpected_keys"]:
        yield f"of another network are {_few(info['unexpected_keys'])}"
    if info["mismatched_keys"]:
        shapes = [f"{key} {tuple(has)} instead of {tuple(wants)}" for key, has, wants in info["mismatched_keys"]]
        yield f"of another shape are {_few(shapes)}"


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(sorted(names)[:3]) + more


def _download(name: str, patterns: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(patterns)))
    except Exception as error:  # of the name, of the network, of the disk
        raise ConfigError(
            f"prior {name!r} cannot be loaded ({_first_line(error)}); check the name and the network, or give a folder"
        ) from error


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:2])[:200]}" if lines else type(error).__name__
