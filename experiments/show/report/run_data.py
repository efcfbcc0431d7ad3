"""The data of a report: everything a run folder holds, read once; missing pieces stay None."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from safetensors import SafetensorError

from attacker.capture.store import CaptureStore, read_attack_table
from experiments.plan.attackers import known_to_nobody
from experiments.show.report.measured import Measured
from experiments.statistics.significance import findings
from experiments.statistics.verdict import Verdict, verdict
from fl_sim import traits
from fl_sim.config import Config, load
from fl_sim.runs import RunFolder, read_manifest


@dataclass(frozen=True, kw_only=True)
class RunData(Measured):
    """One run, read."""

    config: Config
    manifest: Mapping[str, Any]  # empty where there is none

    @property
    def judged(self) -> Verdict | None:
        return verdict(self.findings, unknown_defenses(self.manifest), distorted(self.manifest, self.config.defenses))


def unknown_defenses(manifest: Mapping[str, Any]) -> list[str]:
    """The defenses of a run that none of its attacks knows, by its manifest."""
    stated = manifest.get("threat_model", {})
    not_adapted = stated.get("not_adapted_to", {}) if isinstance(stated, Mapping) else {}
    return known_to_nobody(not_adapted) if isinstance(not_adapted, Mapping) else []


def distorted(manifest: Mapping[str, Any], defenses: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the defenses of a run do so much to its updates that no picture can explain them, by its manifest.

    A clip changes the length alone, and what is off changes nothing. A defense that declares nothing may do anything.
    """
    declared = manifest.get("defenses")
    if not isinstance(declared, list):  # of an older version
        return bool(defenses)
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
    config = load(run.config)
    missing += manifest.get("notes", [])
    found = [] if leakage is None else findings(leakage)
    own = [one for one in found if one.arm == "attack" and one.server_round is not None]
    missing += [f"{one.attack}: {one.silence}; they count as not named." for one in own if one.silence]
    labels, priors = _labels(run, config.attacks)
    return RunData(
        run=run,
        name=config.name,
        update="gradient" if config.federation.update == "gradient" else "weight update",
        synthetic=config.dataset.name == "synthetic",
        planned=tuple(config.attacks),
        users=config.dataset.users,
        people=config.leakage.gallery_size,
        rounds=rounds,
        leakage=leakage,
        findings=found,
        rejected=rejected,
        labels=labels,
        priors=priors,
        missing=missing,
        config=config,
        manifest=manifest,
    )


def _labels(run: RunFolder, attacks: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], frozenset[str]]:
    """Labels with reconstructions, and which attack labels are the prior alone (as written, else as configured)."""
    folder = run.reconstructions
    written = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    names = {label: table.get("name", label) for label, table in attacks.items()}
    for label in written:
        names.setdefault(label, label)
        for path in sorted((folder / label).glob("round-*/user-*.safetensors"))[:1]:
            try:
                table = read_attack_table(run, label, int(path.parent.name[6:]), int(path.stem[5:])) or {}
            except (OSError, ValueError, KeyError, SafetensorError):
                continue  # damaged; its place in the gallery stays empty
            names[label] = table.get("name", names[label])
    order = [label for label in attacks if label in written]
    priors = frozenset(label for label, name in names.items() if name == "prior_only")
    return order + [label for label in written if label not in order], priors


def _table(run: RunFolder, name: str, otherwise: str, missing: list[str]) -> pd.DataFrame | None:
    path = getattr(run, name)
    try:
        with path.open("rb") as file:  # by its path it is opened twice: a run at work may replace it meanwhile
            table = pd.read_parquet(file)
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
