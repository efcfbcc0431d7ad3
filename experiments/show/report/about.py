"""What a page says of the federation that it is about, beside what was measured there."""

from dataclasses import dataclass

from experiments.show.report import tables
from experiments.show.report.hero import threat_line
from experiments.show.report.run_data import RunData

Facts = list[tuple[str, str]]  # (term, description)


@dataclass(frozen=True)
class About:
    """One federation in words."""

    kind: str  # of page
    stamps: list[str]  # which federation, and when
    threat: str  # the threat model in one line
    setup: Facts
    threat_model: Facts
    config_text: str
    versions: Facts
    compared_by: str  # photos by which a user is found in the gallery
    mean_of: str  # people of whom the control "mean of others" is the mean
    untrained: str  # why no round of the training is shown, where none is
    in_sweep: bool = False  # whether a page of the sweep lies beside it


def about(run_data: RunData) -> About:
    """A run in words."""
    manifest, config, root = run_data.manifest, run_data.config, run_data.run.root
    stamps = [f"run {config.name}", f"seed {config.seed}"]
    if manifest.get("created"):
        stamps.append(manifest["created"][:10])
    versions = [(str(name), str(version)) for name, version in manifest.get("versions", {}).items()]
    return About(
        kind="User-level leakage",
        stamps=stamps,
        threat=threat_line(run_data),
        setup=tables.setup(run_data),
        threat_model=tables.threat_model(run_data),
        config_text=run_data.run.config.read_text(encoding="utf-8"),
        versions=[*versions, ("machine", manifest.get("machine", "\N{EN DASH}"))] if versions else [],
        compared_by="by photos the user did not train on",
        mean_of="people who are not users",
        untrained="No round has been evaluated yet.",
        in_sweep=(root.parent / "sweep.toml").is_file(),
    )
