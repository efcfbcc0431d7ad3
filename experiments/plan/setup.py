"""Everything that a config names, made once and passed on: `prepare(config) -> Setup`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from attacker import attacks
from attacker.attack import Attack
from clients.datasets import open_dataset, task_of
from clients.datasets.examine import Examined, examine
from clients.defenses import Defense, load_all
from clients.user import FaceDataset
from experiments.plan import attackers
from experiments.plan.privacy import Accountant, accountant
from fl_sim.config import Config
from fl_sim.initial_model import Origin, initial_model
from fl_sim.modules import state
from fl_sim.updates import Update


@dataclass(frozen=True)
class Setup:
    """What a run is made of."""

    config: Config  # with a table for each attacker
    dataset: FaceDataset
    examined: Examined
    model: nn.Module  # the architecture; whoever uses it loads the weights that it wants
    parameters: Update  # what round 1 sends
    origin: Origin  # of these parameters
    defenses: Sequence[Defense]
    attacks: Mapping[str, Attack]  # by label
    accountant: Accountant

    @property
    def task(self) -> str:
        """What the model learns, of which the config may leave the choice to the dataset."""
        return task_of(self.config.dataset, self.config.seed)

    @property
    def photos(self) -> tuple[int, int]:
        """The fewest and the most private photos of a user."""
        asked = self.config.dataset.photos
        return self.examined.photos or (asked, asked)


def prepare(config: Config) -> Setup:
    """The set-up of `config`. Raises ConfigError for whatever it names that cannot be had or does not fit."""
    defenses = load_all(config.defenses)
    config = attackers.planned(config)
    dataset = open_dataset(config.dataset, config.seed)
    model, origin = initial_model(config, dataset.num_classes)
    return Setup(
        config=config,
        dataset=dataset,
        examined=examine(config.dataset, config.seed),
        model=model,
        parameters={name: value.clone() for name, value in state(model).items()},
        origin=origin,
        defenses=defenses,
        attacks={label: attacks.load(label, table) for label, table in config.attacks.items()},
        accountant=accountant(config, defenses, model),
    )
