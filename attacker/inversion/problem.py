"""The matching problem: the users of one round, the model that they were sent, and what images are compared with."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial

import torch
from torch import Tensor, nn

from attacker.attack import Attacker, Progress
from attacker.inversion.cuda_graph import GraphedCallable
from attacker.inversion.defense_aware import adapt
from attacker.inversion.finite_difference import CheckedFallback, FiniteDifference, LossAndGrad
from attacker.inversion.local_simulation import plan
from attacker.inversion.matching import (
    DISTANCES,
    ObservedGradient,
    Representatives,
    load_model,
    matching_loss_and_grad,
    observed_gradient,
    split,
)
from attacker.inversion.representatives import Labels, known_labels, photos
from attacker.observation import Observation, Reconstruction
from fl_sim.config import ConfigError

Round = tuple[nn.Module, ObservedGradient]  # the model as it was sent, and what came back
Solve = Callable[[int, torch.Generator, Callable[[int], None]], tuple[Tensor, float, Tensor]]


@dataclass(frozen=True)
class MatchingProblem:
    """The users attacked together: one model, and per victim what its representatives are compared with."""

    model: nn.Module  # with the parameters that the server sent
    representatives: list[Representatives]  # one a victim
    observed_gradients: list[ObservedGradient]  # one a victim
    earlier: list[list[Round]]  # per victim, the rounds before, latest first
    faster: dict[str, LossAndGrad] = field(default_factory=dict)  # `loss_and_grad`, per distance
    posed: float = field(default_factory=time.perf_counter)  # when, in seconds

    @property
    def counts(self) -> list[int]:
        """Representatives of each victim."""
        return [len(reps.labels) for reps in self.representatives]

    @property
    def owner(self) -> Tensor:
        """Whose each image is: (n,) places in `representatives`."""
        places = torch.arange(len(self.representatives)).repeat_interleave(torch.tensor(self.counts))
        return places.to(self.observed_gradients[0].vector.device)

    def loss_and_grad(self, images: Tensor, distance: str) -> tuple[Tensor, Tensor]:
        """Matching losses (victims,) and their gradients in the images (n, 3, H, W); means over the rounds known."""
        # Not a method: it would lead back here, and what GPUs record must go as soon as its victims do.
        function = partial(
            fused_loss_and_grad, self.model, self.representatives, self.observed_gradients, self.earlier, distance
        )
        if distance not in self.faster:
            if images.is_cuda:  # convolutions round too much there (TF32), and launches cost more than products
                self.faster[distance] = GraphedCallable(function)
            else:
                self.faster[distance] = CheckedFallback(
                    function, partial(function, finite_difference=cache(FiniteDifference))
                )
        return self.faster[distance](images)

    def reconstructions(
        self,
        images: Tensor,
        losses: Tensor,
        representatives: Sequence[Representatives] | None = None,
        frames: Tensor | None = None,
    ) -> list[Reconstruction]:
        """One a victim from images (n, 3, H, W) in [-1, 1], by default of its `representatives`, and losses (victims,).

        `frames` (n, frames, 3, H, W) are these images on their way; those of a victim's first are kept, if any.
        All have an equal share of the time since the problem was posed.
        """
        shown = self.representatives if representatives is None else representatives
        seconds = (time.perf_counter() - self.posed) / len(shown)
        kept: list[Tensor | None] = [None] * len(shown)
        if frames is not None and frames.shape[1]:
            kept = [part[0] for part in split(photos(frames), shown)]
        return [
            Reconstruction(part, reps.weights.cpu(), float(loss), seconds, frames=way)
            for part, reps, loss, way in zip(split(photos(images), shown), shown, losses, kept, strict=True)
        ]

    def solve_each(
        self, solve: Solve, generators: Sequence[torch.Generator], steps: int, progress: Progress
    ) -> list[Reconstruction]:
        """One a victim, for attacks that take the victims one after the other, each in `steps` steps.

        `solve(victim, generator, report)` gives images (n, 3, H, W), the answer first, their matching loss, and
        the images on their way (n, frames, 3, H, W). It calls `report` with the number of its steps that are done.
        """
        total, answers = steps * len(generators), []
        for victim, source in enumerate(generators):
            started = time.perf_counter()
            images, loss, frames = solve(victim, source, partial(_report, progress, victim * steps, total))
            weights = self.representatives[victim].weights.float().cpu()
            way = photos(frames[0]).float() if frames.shape[1] else None
            seconds = time.perf_counter() - started
            answers.append(Reconstruction(photos(images).float(), weights, loss, seconds, frames=way))
        return answers


def _report(progress: Progress, passed: int, total: int, step: int) -> None:
    progress(passed + step, total)


def fused_loss_and_grad(
    model: nn.Module,
    representatives: list[Representatives],
    observed_gradients: list[ObservedGradient],
    earlier: list[list[Round]],
    distance: str,
    images: Tensor,
    finite_difference: Callable[[nn.Module], FiniteDifference | None] = lambda model: None,
) -> tuple[Tensor, Tensor]:
    """What `MatchingProblem.loss_and_grad` does."""
    measure = DISTANCES[distance]
    losses, grads = matching_loss_and_grad(
        model, images, representatives, observed_gradients, measure, finite_difference(model)
    )
    if not any(earlier):
        return losses, grads
    parts = zip(losses, split(images, representatives), split(grads, representatives), strict=True)
    fused = []
    for (loss, part, grad), reps, known in zip(parts, representatives, earlier, strict=True):
        before = [
            matching_loss_and_grad(sent, part, [reps], [observed], measure, finite_difference(sent))
            for sent, observed in known
        ]
        count = 1 + len(before)
        total = sum((earlier_loss[0] for earlier_loss, _ in before), loss) / count
        fused.append((total, sum((earlier_grad for _, earlier_grad in before), grad) / count))
    return torch.stack([loss for loss, _ in fused]), torch.cat([grad for _, grad in fused])


def matching_problem(
    observations: Sequence[Observation],
    attacker: Attacker,
    arrange: Callable[[Labels, Observation], Representatives],
    layer_norm_power: float,
    simulated_steps: int = 1,
) -> MatchingProblem:
    """Load the model as it was sent and `arrange` what is known of each user's labels into its representatives.

    `layer_norm_power` is that of `attacker.inversion.matching.observed_gradient`; a user's local steps are simulated in
    `simulated_steps` steps at most, 1 takes their sum for one gradient.
    Raises ConfigError if the observations are of more than one round.
    """
    posed = time.perf_counter()
    rounds = sorted({observation.server_round for observation in observations})
    if len(rounds) != 1:
        raise ConfigError(f"observations of rounds {rounds} given; an attack takes the victims of one round together")
    model = load_model(attacker.model, observations[0].parameters).to(attacker.device)
    representatives = [
        replace(
            arrange(known_labels(observation, model, attacker), observation),
            local=plan(observation.local, observation.num_examples, simulated_steps),
        )
        for observation in observations
    ]
    sent: dict[int, nn.Module] = {}
    earlier: list[list[Round]] = []
    for observation in observations:
        for before in observation.history:
            if before.server_round not in sent:
                sent[before.server_round] = load_model(attacker.model, before.parameters).to(attacker.device)
        earlier.append(
            [
                (sent[before.server_round], _observed(before, layer_norm_power, attacker))
                for before in observation.history
            ]
        )
    observed = [_observed(observation, layer_norm_power, attacker) for observation in observations]
    return MatchingProblem(model, representatives, observed, earlier, posed=posed)


def _observed(observation: Observation, layer_norm_power: float, attacker: Attacker) -> ObservedGradient:
    gradient = {name: value.to(attacker.device) for name, value in observation.gradient.items()}
    adaptation = adapt(gradient, observation.defenses, max(len(observation.members), 1))
    return observed_gradient(gradient, layer_norm_power, adaptation)
