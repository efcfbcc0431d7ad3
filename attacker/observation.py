"""What the malicious server knows of one user in one round: the only input of an attack."""

from dataclasses import dataclass

from torch import Tensor

from fl_sim.updates import Update


@dataclass(frozen=True)
class Observation:
    """One captured update. No private data: what crossed the wire and what the protocol makes public."""

    server_round: int
    user: int
    parameters: Update  # global model as sent, parameters and buffers, by name
    gradient: Update  # as received (recovered from weights where those were sent), by parameter name
    num_examples: int  # photos behind the mean loss, as reported for the weighted average
    label_proportions: Tensor | None  # (num_classes,), sums to 1; None unless the threat model grants it


@dataclass(frozen=True)
class Reconstruction:
    """What an attack says of one user: one representative image per label group."""

    images: Tensor  # (groups, 3, H, W) in [0, 1], the answer first
    weights: Tensor  # (groups,), the share of the user's photos that each image stands for, sums to 1
    matching_loss: float  # distance of the dummy gradient to the observed one; NaN if the attack has none
    seconds: float  # of this user's share of the job's wall time
