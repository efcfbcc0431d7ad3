"""Privacy accounting: the epsilon, at `protocol.delta`, of what a run gives away; the unit is the user.

Two readers are told apart. The *server* sees every reply: against it only what users do themselves counts, a norm bound
and then noise of a fixed size. A *reader* sees the models that the server publishes: against one the server's noise
counts too. Neighbours are the same for both: one user's reply, replaced by any other user's, among a known number of
users. Clipped to C, two replies differ by up to 2 C. (Under the server's noise also: by none, which is no change.)
Rounds compose: a user counts as one who takes part in all of them, so nothing is amplified where few are drawn for a
round.

What a defense does to norms, and which noise it adds, is what it declares (fl_sim.traits); after one that declares
nothing no norm is known. What follows the noise cannot undo it. Secure aggregation and shuffling only hide more, and
are not counted: the epsilon of a run with them is an upper bound. Not covered: how many photos a user has, and label
proportions where the threat model tells them to the attacker anyway.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from clients.defenses import Defense
from fl_sim.config import Config, Protocol

Reader = Literal["server", "reader"]
READERS: tuple[Reader, ...] = ("server", "reader")


@dataclass(frozen=True)
class Noise:
    """A mechanism that adds noise of a fixed size to something of bounded sensitivity."""

    kind: Literal["gaussian", "laplace"]
    multiplier: float  # standard deviation / L2 sensitivity; laplace: scale / L1 sensitivity. Above 0

    def epsilon(self, rounds: int, delta: float) -> float:
        """Of `rounds` uses, by dp-accounting: exact for Gaussian noise (Balle & Wang 2018), else by Renyi orders."""
        from dp_accounting import LaplaceDpEvent, SelfComposedDpEvent, get_epsilon_gaussian  # takes seconds
        from dp_accounting.rdp import RdpAccountant

        if self.kind == "gaussian":  # n uses of multiplier z are one of z / sqrt(n)
            return float(get_epsilon_gaussian(self.multiplier / math.sqrt(rounds), delta))
        accountant = RdpAccountant()
        accountant.compose(SelfComposedDpEvent(LaplaceDpEvent(self.multiplier), rounds))
        return min(float(accountant.get_epsilon(delta)), rounds / self.multiplier)


@dataclass(frozen=True)
class Guarantee:
    """What is guaranteed against a reader, and what gives it; or no noise, and why there is no guarantee."""

    noise: Noise | None
    why: str
    or_none: bool = False  # whether a user's reply may also be replaced by none, not only by any other user's

    def epsilon(self, rounds: int, delta: float) -> float | None:
        return None if self.noise is None else self.noise.epsilon(rounds, delta)


@dataclass(frozen=True)
class Bound:
    """The L2 norm that no update exceeds, and the defense that makes it so."""

    norm: float
    by: str


@dataclass(frozen=True)
class Accountant:
    """What the defenses and the protocol of one run guarantee."""

    defenses: Sequence[Defense]
    protocol: Protocol
    rounds: int  # of the run
    statistics: bool  # whether users also send the batch-norm statistics of their photos
    tensors: int  # of the update
    entries: int  # of all its tensors

    def epsilon(self, rounds: int | None = None, against: Reader = "server") -> float | None:
        """Epsilon at `protocol.delta` after `rounds` (None: all of the run); None: there is no guarantee."""
        return self.guarantee(against).epsilon(rounds or self.rounds, self.protocol.delta)

    def guarantee(self, against: Reader) -> Guarantee:
        """What is guaranteed against the server, or against a reader of its models."""
        local = self._of_users()
        return local if against == "server" else self._better(self._of_server(), local)

    def facts(self) -> dict[str, Any]:
        """All of it as JSON, for the manifest: `{delta, faults, server: {...}, reader: {...}}`.

        Of each reader `{epsilon_round, epsilon_run, mechanism, why, or_none}`. `faults` are sentences on mechanisms of
        others that do not keep what they are asked for.
        """
        told: dict[str, Any] = {"delta": self.protocol.delta, "faults": self.faults()}
        for against in READERS:
            guarantee = self.guarantee(against)
            told[against] = {
                "epsilon_round": guarantee.epsilon(1, self.protocol.delta),
                "epsilon_run": guarantee.epsilon(self.rounds, self.protocol.delta),
                "mechanism": None if guarantee.noise is None else guarantee.noise.kind,
                "why": guarantee.why,
                "or_none": guarantee.or_none,
            }
        return told

    def spent(self, rounds: int) -> dict[str, float]:
        """Columns of rounds.parquet: epsilon after so many rounds, for each reader; NaN: no guarantee."""
        spent = {"epsilon": self.epsilon(rounds), "epsilon_reader": self.epsilon(rounds, against="reader")}
        columns = {name: math.nan if value is None else value for name, value in spent.items()}
        return {**columns, "delta": self.protocol.delta}

    def flaw(self) -> str | None:
        """Why there is no epsilon although noise is added, in one sentence; None where all is as one would expect."""
        noisy = any(one.traits is not None and one.traits.noise != "none" for one in self.defenses)
        local = self.guarantee("server")
        if local.noise is None and noisy:
            return f"Noise without an epsilon: {local.why}."
        central = self.guarantee("reader")
        if central.noise is None and self.protocol.differential_privacy != "none":
            return f"Differential privacy without an epsilon: {central.why}."
        return None

    def faults(self) -> list[str]:
        """What the run's mechanisms of others promise and do not keep, a sentence each."""
        said = []
        for defense in self.defenses:
            multiplier = _flower_noise(defense)
            if multiplier is None:
                continue
            asked, delta = defense.settings["epsilon"], defense.settings["delta"]
            exact = Noise("gaussian", multiplier).epsilon(1, delta) if multiplier > 0 else math.inf
            if exact > asked * 1.005:
                said.append(
                    f"Flower's LocalDpMod is asked for epsilon {asked:g} a reply and gives {exact:.3g}, at its delta "
                    f"{delta:g}: its formula holds for epsilon up to 1, and for a sensitivity of twice its "
                    "clipping_norm; take the defense local_dp, which is exact"
                )
        return said

    def _of_users(self) -> Guarantee:
        """Against who sees each reply: walks through the defenses with the norm that an update then has at most."""
        if self.statistics:
            return Guarantee(None, "users also send batch-norm statistics, to which no defense is applied")
        bound: Bound | None = None
        best = Guarantee(None, "no defense clips the update and then adds noise of a fixed size")
        for defense in self.defenses:
            if defense.acts_on == "data":
                continue
            if defense.sees_private or (defense.acts_on == "message" and _flower_noise(defense) is None):
                best, bound = Guarantee(None, f"{defense.name} may tell of the photos what no noise covers"), None
                continue
            bound = self._bound(defense, bound)
            added = self._added(defense, bound)
            if added is not None:
                best, bound = self._better(added, best), None
        return best

    def _of_server(self) -> Guarantee:
        """Against who sees the models alone: noise on the sum of clipped changes, which one moves by 2 bounds."""
        section = self.protocol
        if section.differential_privacy == "none":
            return Guarantee(None, "neither users nor the server clip and then add noise of a fixed size")
        if section.noise_multiplier == 0:
            return Guarantee(None, "protocol.noise_multiplier is 0, so there is no noise")
        noise = Noise("gaussian", section.noise_multiplier / 2)
        return Guarantee(noise, f"protocol {section.differential_privacy}", or_none=True)

    def _better(self, one: Guarantee, other: Guarantee) -> Guarantee:
        """The one of the smaller epsilon, which holds whatever the other does; `one` if neither guarantees anything."""
        if one.noise is None or other.noise is None:
            return other if one.noise is None and other.noise is not None else one
        return min(one, other, key=lambda each: each.epsilon(1, self.protocol.delta) or 0.0)

    def _added(self, defense: Defense, bound: Bound | None) -> Guarantee | None:
        """What the noise of `defense` guarantees for updates that `bound` holds before it; None if it adds none."""
        name, traits = defense.name, defense.traits
        flowers = _flower_noise(defense)
        if flowers is not None:
            return Guarantee(Noise("gaussian", flowers), name) if flowers > 0 else None
        if traits is None or traits.noise == "none":
            return None
        if traits.noise_size is None:
            return Guarantee(None, f"the level of {name} follows the update itself, and so tells of it")
        if bound is None:
            return Guarantee(None, f"{name} has no clip right before it, so nothing bounds what one user can change")
        why = name if bound.by == name else f"{bound.by} and {name}"
        if traits.noise == "gaussian":
            return Guarantee(Noise("gaussian", traits.noise_size / (2 * bound.norm)), why)
        # Laplace's noise asks for a bound in L1, which of p entries is sqrt(p) times that in L2.
        return Guarantee(Noise("laplace", traits.noise_size / (2 * bound.norm * math.sqrt(self.entries))), why)

    def _bound(self, defense: Defense, bound: Bound | None) -> Bound | None:
        """What holds of updates after `defense`, but for its noise, if `bound` holds before."""
        traits = defense.traits
        if traits is None:
            return None
        kept = bound if traits.keeps_norm else None
        if traits.max_norm is None:
            return kept
        tensors = self.tensors if traits.per_layer else 1
        own = Bound(float(traits.max_norm * math.sqrt(tensors)), defense.name)
        return own if kept is None else min(kept, own, key=lambda each: each.norm)


def accountant(config: Config, defenses: Sequence[Defense], model: nn.Module) -> Accountant:
    """The accountant of a run of `config`, whose users defend updates of `model` by `defenses`."""
    sizes = [parameter.numel() for parameter in model.parameters()]
    statistics = config.threat_model.batch_norm_statistics
    return Accountant(defenses, config.protocol, config.federation.rounds, statistics, len(sizes), sum(sizes))


def sentences(told: dict[str, Any]) -> dict[str, str]:
    """`facts` in words, for each reader."""
    words: dict[str, str] = {}
    for against in READERS:
        one = told[against]
        words[against] = f"no guarantee: {one['why']}"
        if one["epsilon_run"] is not None:
            spent = f"epsilon {one['epsilon_round']:.3g} a round, {one['epsilon_run']:.3g} over the run"
            by = "any other's or by none" if one.get("or_none") else "any other's"  # absent from older runs
            neighbours = f"one user's reply replaced by {by}"
            words[against] = f"{spent}, at delta {told['delta']:g}, {neighbours} ({one['why']})"
    return words


def _flower_noise(defense: Defense) -> float | None:
    """The noise multiplier of Flower's LocalDpMod, which clips and adds noise itself; None for any other."""
    if not defense.name.startswith("flwr.") or not defense.name.endswith(":LocalDpMod"):
        return None
    mod: Any = defense.call
    # Its formula holds for epsilon below 1 and for the sensitivity it is told: what counts is the noise it adds.
    std = mod.sensitivity * math.sqrt(2 * math.log(1.25 / mod.delta)) / mod.epsilon
    return float(std / (2 * mod.clipping_norm))
