"""Does a prior do what its files say? One look at noisy grey images, before anything long starts.

A network that was trained on images takes the noise off a flat grey one, at as much noise as image, if its output is
read as what it was trained to predict. Read as anything else it leaves noise, or another grey. So a scheduler file that
names the wrong prediction shows, and so does a network that was never trained. The shipped prior has an error of 0.008
in its own reading, at least 0.1 in the others.

And can it do what the attack would have it do? `undrawn` tells where an attack cannot draw photos with it.
"""

import torch
from torch import Tensor

from attacker.attack import Attack
from attacker.attacks import user_diffusion
from attacker.priors.prior import Prior, load_prior
from fl_sim.config import ConfigError
from fl_sim.config_errors import in_one_line
from fl_sim.seeds import generator

LEVELS = (-0.6, -0.2, 0.2, 0.6)  # of grey, in [-1, 1]; black would be off by 0.2, the noisy images themselves by 1
CLEAR = 0.05  # an error below it is of a network that denoises, read rightly
IDLE = 0.1  # an error above it is of one that does not


def doubts(attack: Attack, image_size: int) -> list[str]:
    """A sentence each if the prior of `attack` does not denoise, and if it cannot draw with it.

    Raises ConfigError where the prior cannot be read.
    """
    name = attack.needs.prior
    if name is None:
        return []
    prior = load_prior(name, image_size)
    return [*filter(None, (doubt(prior, name), undrawn(attack, prior)))]


def undrawn(attack: Attack, prior: Prior) -> str | None:
    """A sentence if `attack` would draw photos given a mean face, but its prior has not learnt what they look like."""
    settings = attack.settings
    if prior.conditional or not isinstance(settings, user_diffusion.Settings) or not settings.draws:
        return None
    begun = "" if prior.latent or prior.size != prior.image_size else f" --start {settings.prior}"
    return (
        f"prior {settings.prior!r} has not learnt mean faces, so {attack.name} shows the mean that the update "
        f"determines, which is no photo; fl-sim train-prior{begun} makes one that draws photos"
    )


def doubt(prior: Prior, name: str) -> str | None:
    """A sentence if the prior `name` does not denoise. Raises ConfigError if it does so only when read otherwise."""
    try:
        errors, lost = reading_errors(prior), autoencoder_error(prior)
    except Exception as error:  # of networks whose parts do not fit, of any kind
        raise ConfigError(
            f"prior {name!r} cannot be used on images of {prior.image_size} px ({in_one_line(error, 200)}); "
            "give another one"
        ) from error
    stated, best = prior.prediction_type, min(errors, key=lambda kind: errors[kind])
    if errors[best] < CLEAR and not errors[stated] <= 2 * errors[best]:
        raise ConfigError(
            f"prior {name!r} says that its network predicts {stated}, but it takes the noise off grey images only if "
            f"read as {best} (mean square error {errors[best]:.3f}, not {errors[stated]:.3f}); mend prediction_type in "
            "its scheduler_config.json"
        )
    flaws = []
    if not lost <= IDLE:  # nor if it is NaN
        flaws.append(f"its autoencoder does not give grey images back (mean square error {lost:.2f})")
    if not errors[stated] <= IDLE:
        flaws.append(f"its network does not take the noise off grey images (mean square error {errors[stated]:.2f})")
    if not flaws:
        return None
    return (
        f"prior {name!r}: {' and '.join(flaws)}; a good one has less than {CLEAR}, so attacks with this one show less "
        "than there is to see; was it trained, and on images in [-1, 1]?"
    )


def reading_errors(prior: Prior) -> dict[str, float]:
    """Mean square error of predict_x0 on noisy grey images, or their codes, for each reading of the network; >= 0."""
    x0 = prior.encode(_grey(prior))
    noise = torch.randn(x0.shape, generator=generator(0, "prior-trial")).to(x0.device)
    t = torch.full((len(x0),), int((prior.alphas_cumprod - 0.5).abs().argmin()), device=x0.device)
    readings = prior.readings(prior.add_noise(x0, noise, t), t)
    return {kind: float((seen - x0).square().mean()) for kind, seen in readings.items()}


def autoencoder_error(prior: Prior) -> float:
    """Mean square error of grey images that went through the autoencoder, 0 without one; >= 0."""
    grey = _grey(prior)
    return float((prior.decode(prior.encode(grey)) - grey).square().mean()) if prior.latent else 0.0


def _grey(prior: Prior) -> Tensor:
    levels = torch.tensor(LEVELS, device=prior.alphas_cumprod.device)
    return levels[:, None, None, None].expand(-1, 3, prior.image_size, prior.image_size)
