"""A state dict from a file: safetensors, or what torch.save wrote, of which only tensors are ever unpickled."""

import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from fl_sim.config import ConfigError
from fl_sim.config_errors import in_one_line
from fl_sim.tensors import DamagedFile, read_tensors
from fl_sim.updates import Update

STARTS = (b"PK\x03\x04", b"\x80\x02\x8a\n")  # of a file of torch.save: an archive, or before torch 1.6 a pickle
WITHIN = ("state_dict", "model_state_dict", "model", "module", "net", "weights", "gradient", "gradients", "grads")


def read_state(path: Path) -> tuple[Update, tuple[str, ...]]:
    """The tensors in a file by name, those of a list by number; and what had to be assumed, a clause each.

    Raises ConfigError for a file that cannot be read, or that holds more than tensors.
    """
    try:
        with path.open("rb") as file:
            start = file.read(4)
        if (other := _other(path, start)) is not None:
            raise ConfigError(f"{path} is {other}; save the tensors by name: torch.save(TENSORS, FILE)")
        return _unpickled(path) if start in STARTS else (read_tensors(path)[0], ())
    except (OSError, DamagedFile) as error:
        what = in_one_line(error)
        raise ConfigError(
            f"{path} cannot be read as safetensors or a .pth ({what}); write it with safetensors.torch, or torch.save"
        ) from error


def _other(path: Path, start: bytes) -> str | None:
    """What a whole file that starts so is, in words, if it is of another kind."""
    if start == STARTS[0] and zipfile.is_zipfile(path):
        names = zipfile.ZipFile(path).namelist()
        if any(name.endswith(".npy") for name in names):
            return "an archive of NumPy's savez"
        if any(name.endswith("/constants.pkl") for name in names):
            return "TorchScript"
    return "an array of NumPy's save, without a name" if start == b"\x93NUM" else None


def _unpickled(path: Path) -> tuple[Update, tuple[str, ...]]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises anything on damaged archives
        if type(error).__name__ != "UnpicklingError":
            raise DamagedFile(f"{path} is damaged ({in_one_line(error, 150)})") from error
        raise ConfigError(
            f"{path} holds Python objects, such as a whole model, and unpickling them would run what the file says; "
            "save the state dict: torch.save(model.state_dict(), FILE)"
        ) from error
    entries = content if isinstance(content, Mapping) else {}
    where = [key for key in WITHIN if isinstance(entries.get(key), Mapping | list | tuple)]
    tensors, notes = _tensors(content), tuple[str, ...]()
    if tensors is None and where:
        tensors, notes = _tensors(entries[where[0]]), (f"of {path.name} the entry {where[0]!r} was read",)
    if not tensors:
        held = f"the entries {', '.join(map(str, list(entries)[:5]))}" if entries else "other data"
        raise ConfigError(f"{path} holds no state dict, but {held}; save it by torch.save(model.state_dict(), FILE)")
    return tensors, notes


def _tensors(content: object) -> Update | None:
    """The tensors of a state dict, or of gradients by name or in a list, where frozen ones are None; else None."""
    if isinstance(content, list | tuple):
        content = {str(number): value for number, value in enumerate(content)}
    if not isinstance(content, Mapping):
        return None
    found = {str(name): value for name, value in content.items() if value is not None}
    if not all(isinstance(value, Tensor) for value in found.values()):
        return None
    return {name: value.detach().to_dense() for name, value in found.items()}
