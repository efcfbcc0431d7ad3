"""What can be known of a run's data before it: whose photos they are, how many, and who knows such photos."""

from clients.datasets import open_dataset, task_of
from clients.datasets.examine import examine
from experiments.plan import acquaintance
from fl_sim.config import Config


def preflight(config: Config) -> list[str]:
    """Sentences that the user should read. Raises ConfigError for data, judges or priors that make no experiment."""
    faces = open_dataset(config.dataset, config.seed)
    photographs = not getattr(faces, "synthetic", False)
    known = [] if config.workers.backend == "none" else acquaintance.check(config, photographs)
    return [*examine(config.dataset, config.seed).notes, *known]


def facts(config: Config) -> dict[str, object]:
    """For the manifest: whether the faces are photographs, what is learnt, how many private photos users have."""
    found = examine(config.dataset, config.seed)
    task = task_of(config.dataset, config.seed)
    return {"photographs": not found.synthetic, "task": task, "photos": found.photos}
