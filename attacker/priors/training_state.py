"""The state of a prior's training: network, averaged weights, optimiser and curve; all that its checkpoint holds."""

import copy
import math
from pathlib import Path

import torch
from diffusers import UNet2DModel
from safetensors.torch import save_file
from torch import Tensor

from attacker.priors.start import Start
from fl_sim.config import ConfigError
from fl_sim.tensors import read_tensors

CHECKPOINT = "checkpoint.safetensors"


class State:
    """A training of `start`, which is used up, on `device` into the folder `out`; it is at `step`.

    It goes on from the checkpoint in `out`, if there is one. ConfigError for a checkpoint that is damaged, of another
    network, or of a training that began at another prior.
    """

    def __init__(self, start: Start, out: Path, device: torch.device) -> None:
        self.start, self.out, self.step, self.seconds, self.curve = start, out, 0, 0.0, list[float]()
        self.unet = start.unet.to(device, memory_format=torch.channels_last)
        self.ema = {name: value.detach().clone() for name, value in self.unet.named_parameters()}
        self.optimizer = torch.optim.AdamW(self.unet.parameters(), weight_decay=1e-4, fused=device.type == "cuda")
        if (out / CHECKPOINT).exists():
            self._load(out / CHECKPOINT)

    @property
    def average_loss(self) -> float:
        recent = self.curve[-100:]
        return sum(recent) / max(len(recent), 1)

    def update(self, loss: Tensor, learning_rate: float, ema: float) -> None:
        """A step down the gradient of `loss`; `ema` is the decay of the averaged weights. ValueError if not finite."""
        value = float(loss.detach())
        if not math.isfinite(value):
            raise ValueError(f"the loss is {value} at step {self.step}; give a lower --learning-rate and start again")
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.unet.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        self.curve.append(value)
        # A young average forgets faster, so that it does not drag the random start along.
        decay = min(ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            names, parameters = zip(*self.unet.named_parameters(), strict=True)
            torch._foreach_lerp_([self.ema[name] for name in names], parameters, 1 - decay)

    def averaged(self) -> UNet2DModel:
        """The network with the averaged weights."""
        unet = copy.deepcopy(self.unet)
        unet.load_state_dict({**unet.state_dict(), **self.ema})
        return unet.eval()

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        tensors = {f"unet.{name}": value.detach() for name, value in self.unet.named_parameters()}
        tensors |= {f"ema.{name}": value for name, value in self.ema.items()}
        for index, slots in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{name}": value for name, value in slots.items()}
        tensors["curve"] = torch.tensor(self.curve)
        self.out.mkdir(parents=True, exist_ok=True)
        temporary = (self.out / CHECKPOINT).with_suffix(".part")
        save_file(
            {name: value.contiguous().cpu() for name, value in tensors.items()},
            temporary,
            metadata={"step": str(self.step), "seconds": str(self.seconds), "start": self.start.name},
        )
        temporary.replace(self.out / CHECKPOINT)

    def _load(self, path: Path) -> None:
        tensors, metadata = read_tensors(path)
        began = metadata.get("start", "")
        if began != self.start.name:
            raise ConfigError(
                f"the training in {path} began at {began or 'random weights'}, not at "
                f"{self.start.name or 'random weights'}; give the same --start or another --out"
            )
        self.step, self.seconds = int(metadata["step"]), float(metadata["seconds"])
        self.curve = tensors.pop("curve").tolist()
        try:
            self.unet.load_state_dict({**self.unet.state_dict(), **_part(tensors, "unet.")})
        except RuntimeError as error:
            raise ConfigError(
                f"the checkpoint {path} belongs to another network; give the same settings or another --out"
            ) from error
        self.ema = {name: value.to(self.unet.device) for name, value in _part(tensors, "ema.").items()}
        slots: dict[int, dict[str, Tensor]] = {}
        for name, value in _part(tensors, "adam.").items():
            index, slot = name.split(".")
            slots.setdefault(int(index), {})[slot] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": slots})


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
