"""In which mode somebody else's users train: batch norm by the statistics of the batch at hand, or by fixed ones.

Nobody tells, and the wrong one makes an attack see nothing. So updates are attacked briefly in either mode, from the
same start, and the mode is kept in which the dummy gradients come nearer to the updates.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from attacker.attack import Attacker
from attacker.attacks import load
from attacker.observation import Observation
from fl_sim import seeds
from fl_sim.config import ConfigError, short
from fl_sim.modules import BatchNorm

STEPS = 25  # of the attack that decides
WORDS: dict[BatchNorm, str] = {"train": "with the statistics of the batch (training mode)", "eval": "with fixed ones"}


@dataclass(frozen=True)
class Mode:
    """The mode that was kept, and the mean matching loss, in [0, 2], in each that could be tried."""

    batch_norm: BatchNorm
    losses: dict[BatchNorm, float]

    def sentence(self) -> str:
        """What was found, for the user."""
        other: BatchNorm = "eval" if self.batch_norm == "train" else "train"
        beside = f"{self.losses[other]:.3g}" if other in self.losses else "it cannot be tried"
        return (
            f"batch norm is taken {WORDS[self.batch_norm]}: matching loss {self.losses[self.batch_norm]:.3g}, "
            f"{WORDS[other]} {beside}, after {STEPS} steps"
        )


def nearest(attacker: Callable[[BatchNorm], Attacker], observations: Sequence[Observation], seed: int) -> Mode:
    """The mode in which `observations`, of one round, are matched best; `attacker` opens the model in a mode.

    Raises ConfigError if neither can be tried.
    """
    losses: dict[BatchNorm, float] = {}
    problem = "NaN"
    for mode in WORDS:
        try:
            loss = _loss(attacker(mode), observations, seed)
        except ConfigError:
            raise
        except Exception as error:  # one image alone has no statistics, and somebody else's model may raise anything
            problem = short(error)
        else:
            losses |= {mode: loss} if math.isfinite(loss) else {}
    if not losses:
        raise ConfigError(f"the model's batch norm fails in either mode ({problem}); fix the model")
    return Mode(min(losses, key=lambda mode: losses[mode]), losses)


def _loss(attacker: Attacker, observations: Sequence[Observation], seed: int) -> float:
    attack = load("mode", {"name": "inverting_gradients", "steps": STEPS})
    draws = [seeds.generator(seed, "mode", seen.server_round, seen.user) for seen in observations]
    reconstructions = attack.run(observations, attacker, attack.settings, draws, lambda step, steps: None)
    return sum(reconstruction.matching_loss for reconstruction in reconstructions) / len(reconstructions)
