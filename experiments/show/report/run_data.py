"""The data of a report: everything a run folder holds, read once; missing pieces stay None."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from safetensors import SafetensorError

from attacker.capture.store import CaptureStore, read_attack_table
from experiments.evaluate.arms import PICTURES
from experiments.plan.attackers import known_to_nobody
from experiments.statistics.aggregate import Aggregates, Arms, aggregate, attribute_names
from experiments.statistics.interval import Interval
from experiments.statistics.significance import Finding, findings
from fl_sim import traits
from fl_sim.config import Config, load
from fl_sim.runs import RunFolder, read_manifest


@dataclass(frozen=True)
class RunData:
    """One run, read."""

    run: RunFolder
    config: Config
    manifest: Mapping[str, Any]  # empty where there is none
    rounds: pd.DataFrame | None  # one row a round: accuracy, loss, accepted, ...
    leakage: pd.DataFrame | None  # one row per (round, user, attack, arm)
    aggregates: Aggregates  # without any attack where nothing was measured
    findings: list[Finding]  # what each attack tells in each round
    rejected: list[Mapping[str, Any]]  # rows of the capture index
    labels: list[str]  # attacks that left reconstructions, those of the config first
    priors: frozenset[str]  # labels that are the prior alone: a control, not an attack
    missing: list[str]  # sentences: what is not there, and why; what is to be known of the data and their judges

    @property
    def attacks(self) -> list[str]:
        """Labels of the measured attacks, in the order of the config; the prior alone only if it is all there is."""
        if self.leakage is None:
            return []
        present = set(self.leakage["attack"])
        known = dict.fromkeys([*self.config.attacks, *self.labels, *sorted(present)])
        order = [label for label in known if label in present]
        return [label for label in order if label not in self.priors] or order

    @property
    def measured_rounds(self) -> list[int]:
        return [] if self.leakage is None else sorted(int(value) for value in self.leakage["round"].unique())

    def interval(self, attack: str, arm: str, metric: str, server_round: int | None = None) -> Interval | None:
        """An aggregate, of one round or (None) of all; None where it was not measured.

        Its ends are finite: those that cannot be computed are the mean.
        """
        table: dict[str, Arms] = self.aggregates["overall"]
        if server_round is not None:
            table = self.aggregates["rounds"].get(str(server_round), {})
        measured = table.get(attack, {}).get(arm, {}).get(metric)
        if measured is None or not measured.known:
            return None
        low, high = (end if math.isfinite(end) else measured.mean for end in (measured.low, measured.high))
        return Interval(measured.mean, low, high)

    def rows(self, attack: str, arm: str, server_round: int | None = None) -> pd.DataFrame:
        """The leakage rows of an arm; empty where there are none."""
        if self.leakage is None:
            return pd.DataFrame()
        keep = (self.leakage["attack"] == attack) & (self.leakage["arm"] == arm)
        if server_round is not None:
            keep &= self.leakage["round"] == server_round
        return self.leakage[keep]

    def leaks(self, attack: str) -> bool:
        """Whether the pictures of an attack tell more of the users than its controls, in any round."""
        own = [one for one in self.findings if one.attack == attack and one.arm in PICTURES]
        return any(one.names or one.resembles or one.reads_attributes for one in own)

    @property
    def attribute_names(self) -> list[str]:
        if self.leakage is None:
            return []
        return [name for name in attribute_names(self.leakage) if self.leakage[f"attr_{name}_true"].notna().any()]

    @property
    def gallery_size(self) -> int:
        """People among whom the users were looked for."""
        if self.leakage is not None and "gallery_size" in self.leakage and self.leakage["gallery_size"].notna().any():
            return int(self.leakage["gallery_size"].max())
        return self.config.leakage.gallery_size


def unknown_defenses(manifest: Mapping[str, Any]) -> list[str]:
    """The defenses of a run that none of its attacks knows, by its manifest."""
    stated = manifest.get("threat_model", {})
    not_adapted = stated.get("not_adapted_to", {}) if isinstance(stated, Mapping) else {}
    return known_to_nobody(not_adapted) if isinstance(not_adapted, Mapping) else []


def distorted(manifest: Mapping[str, Any], config: Config) -> bool:
    """Whether the defenses of a run do so much to its updates that no picture can explain them, by its manifest.

    A clip changes the length alone, and what is off changes nothing. A defense that declares nothing may do anything.
    """
    declared = manifest.get("defenses")
    if not isinstance(declared, list):  # of an older version
        return bool(config.defenses)
    return any(one is None or traits.parse(one).distorts for one in declared)


# What the page shows of a manifest of any version.
STATED = {"created": str, "versions": dict, "machine": str, "data": dict, "notes": list}


def read(run: RunFolder) -> RunData:
    """The data of a run folder. Raises FileNotFoundError where it has no config.toml, so is no run at all."""
    if not run.config.is_file():
        raise FileNotFoundError(f"{run.root} holds no config.toml, so it is no run; give the folder of a run")
    missing: list[str] = []
    manifest: Mapping[str, Any] = {}
    try:
        stated = read_manifest(run)
        manifest = {key: value for key, value in stated.items() if isinstance(value, STATED.get(key, object))}
    except (OSError, ValueError):
        missing.append("The manifest is missing, so versions, machine and date are not shown.")
    rounds = _table(run, "rounds", "No round has been evaluated yet, so training accuracy is not shown.", missing)
    leakage = _table(run, "leakage", "Leakage has not been measured yet: attack the run to fill this page.", missing)
    rejected: list[Mapping[str, Any]] = []
    try:
        rejected = [dict(row) for row in CaptureStore(run).rejected()]
    except (OSError, ValueError):
        missing.append("The capture index cannot be read, so rejected updates are not listed.")
    aggregates: Aggregates = aggregate(leakage) if leakage is not None else {"overall": {}, "rounds": {}}
    config = load(run.config)
    missing += manifest.get("notes", [])
    labels, priors = _labels(run, config)
    tests = findings(leakage) if leakage is not None else []
    return RunData(run, config, manifest, rounds, leakage, aggregates, tests, rejected, labels, priors, missing)


def _labels(run: RunFolder, config: Config) -> tuple[list[str], frozenset[str]]:
    """Labels with reconstructions, and which attack labels are the prior alone (as written, else as configured)."""
    folder = run.reconstructions
    written = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    names = {label: table.get("name", label) for label, table in config.attacks.items()}
    for label in written:
        names.setdefault(label, label)
        for path in sorted((folder / label).glob("round-*/user-*.safetensors"))[:1]:
            try:
                table = read_attack_table(run, label, int(path.parent.name[6:]), int(path.stem[5:])) or {}
            except (OSError, ValueError, KeyError, SafetensorError):
                continue  # damaged; its place in the gallery stays empty
            names[label] = table.get("name", names[label])
    order = [label for label in config.attacks if label in written]
    priors = frozenset(label for label, name in names.items() if name == "prior_only")
    return order + [label for label in written if label not in order], priors


def _table(run: RunFolder, name: str, otherwise: str, missing: list[str]) -> pd.DataFrame | None:
    path = getattr(run, name)
    try:
        table = pd.read_parquet(path)
    except FileNotFoundError:
        missing.append(otherwise)
        return None
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        missing.append(f"{path.name} cannot be read ({error}).")
        return None
    if table.empty:
        missing.append(otherwise)
        return None
    return table
