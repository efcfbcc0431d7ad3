"""Tensors that somebody else named, as those of a model: behind prefixes, in a list without names, tied, in part.

fitted = ModelTensors(network).fit(tensors)    # {"module.conv.weight": ...} or {"0": ...} -> {"conv.weight": ...}

Numbers without a fraction are left out: counters such as `num_batches_tracked`, and index tables, which are constants
of the model. No gradient leads to them, and averaging turns them into others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from fl_sim.updates import Update

WRAPPERS = {"module", "_module", "_orig_mod"}  # of DataParallel, of Opacus, of torch.compile


class Misfit(ValueError):
    """Tensors that are not those of the model; says why."""


@dataclass(frozen=True)
class Fitted:
    """Tensors by the model's names."""

    values: Update  # in the model's order and dtypes; what was not there is not here
    unknown: tuple[str, ...]  # names, as given, of what the model does not have
    notes: tuple[str, ...]  # what had to be assumed, a clause each


class ModelTensors:
    """The parameters and buffers of a model, and what they may be called."""

    def __init__(self, network: nn.Module) -> None:
        """Those of `network`; they share its memory."""
        entries = {name: value for name, value in network.state_dict().items() if isinstance(value, Tensor)}
        self.state: Update = {name: value.detach() for name, value in entries.items()}
        self.parameters = [name for name, _ in network.named_parameters()]
        self._trained = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
        owners: dict[int, list[str]] = {}
        for name, value in network.named_parameters(remove_duplicate=False):
            owners.setdefault(id(value), []).append(name)
        self._ties = [names for names in owners.values() if len(names) > 1]
        self._bare = {_bare(name): name for name in self.state}

    def fit(self, found: Mapping[str, Tensor]) -> Fitted:
        """`found` by the model's names. Misfit for a tensor of another shape or kind, or two of one name."""
        named, notes = self._by_order(found) if self._nameless(found) else self._by_name(found)
        unknown = tuple(given for given, name in named.items() if name is None)
        values: Update = {}
        for given, name in named.items():
            if name is None or not self.state[name].is_floating_point():
                continue
            if name in values:
                raise Misfit(f"it holds {name!r} twice")
            value, own = found[given].detach(), self.state[name]
            if value.shape != own.shape:
                raise Misfit(f"{given!r} has shape {tuple(value.shape)}, expected {tuple(own.shape)}")
            if not value.is_floating_point():  # quantised: what scale it has, nobody says
                raise Misfit(f"{given!r} has dtype {value.dtype}, expected floating point")
            values[name] = value.to(own.dtype)
        for names in self._ties:  # one tensor of several names, of which files and lists may hold one
            there = next((values[name] for name in names if name in values), None)
            values |= {name: there for name in names if name not in values and there is not None}
        return Fitted({name: values[name] for name in self.state if name in values}, unknown, notes)

    def _nameless(self, found: Mapping[str, Tensor]) -> bool:
        return bool(found) and all(name.isdecimal() and name not in self.state for name in found)

    def _by_name(self, found: Mapping[str, Tensor]) -> tuple[dict[str, str | None], tuple[str, ...]]:
        """The model's name of each tensor (None: it has none), and whether prefixes were left out."""
        names = {given: self._known(given) for given in found}
        prefix = ""
        while not any(names.values()) and (first := _common(found, len(prefix))):
            prefix += first
            names = {given: self._known(given.removeprefix(prefix)) for given in found}
        renamed = [f"{given!r} as {name!r}" for given, name in names.items() if name not in (None, given)]
        return names, (f"names were read without their prefixes: {renamed[0]}",) if renamed else ()

    def _known(self, name: str) -> str | None:
        return name if name in self.state else self._bare.get(_bare(name))

    def _by_order(self, found: Mapping[str, Tensor]) -> tuple[dict[str, str | None], tuple[str, ...]]:
        """The same for the tensors 0, 1, 2, ... of a list, of which some may be missing."""
        count = max(int(given) for given in found) + 1
        whole, learnt = list(self.state), [name for name in self.state if self.state[name].is_floating_point()]
        orders: list[tuple[str, Sequence[str]]] = [
            ("state dict", whole),
            ("state dict without counters", learnt),
            ("parameters", self.parameters),
            ("parameters that are trained", self._trained),
            (f"last {count} parameters", self.parameters[-count:]),
        ]
        for what, names in orders:
            pairs = {given: names[int(given)] for given in found} if len(names) == count else {}
            if pairs and all(found[given].shape == self.state[name].shape for given, name in pairs.items()):
                return dict(pairs), (f"{count} arrays without names were taken for the {what} in that order",)
        raise Misfit(
            f"its {count} arrays have no names, and their shapes are not those of the model's state dict "
            f"({len(whole)} tensors), its parameters ({len(self.parameters)}) or the last {count} of them"
        )


def _bare(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _common(names: Mapping[str, Tensor], start: int) -> str:
    """The part `name.` that all names share at `start`; empty if there is none."""
    firsts = {name[start:].partition(".")[0] + "." for name in names if "." in name[start:]}
    shared = len(firsts) == 1 and all("." in name[start:] for name in names)
    return firsts.pop() if shared else ""
