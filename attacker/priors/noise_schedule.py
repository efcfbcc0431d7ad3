"""What a diffusers scheduler file says of training: how much noise each step adds, and what the network predicts.

Priors are read whose training noises an image as x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise and shows the network
(x_t, t) with an integer t (Ho et al. 2020). A scheduler of any class that samples from such networks gives the same
numbers; they are taken from the class that the file names, since classes differ in their defaults. Schedulers of other
processes are refused by their name.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attacker.priors.files import read_config
from fl_sim.config import ConfigError
from fl_sim.config_errors import in_one_line

PREDICTIONS = ("epsilon", "sample", "v_prediction")
READABLE = (
    "DDPMScheduler",
    "DDPMParallelScheduler",
    "DDIMScheduler",
    "DDIMParallelScheduler",
    "DDIMInverseScheduler",
    "PNDMScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverMultistepInverseScheduler",
    "DPMSolverSinglestepScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
    "SASolverScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "LMSDiscreteScheduler",
)
OTHER_PROCESSES = {  # beginnings of class names
    "FlowM": "flow matching, which mixes image and noise along a line",
    "ScoreSdeVe": "a variance-exploding process, which adds noise to an image of full size",
    "KarrasVe": "a variance-exploding process, which adds noise to an image of full size",
    "EDM": "the process of Karras et al. 2022, which adds noise to an image of full size",
    "ScoreSdeVp": "a process in continuous time",
    "LCM": "a consistency model, which predicts no posterior mean",
    "TCD": "a consistency model, which predicts no posterior mean",
    "CMStochastic": "a consistency model, which predicts no posterior mean",
}
LEAST_SIGNAL = 1e-6  # abar; below it a predicted noise does not tell the image: an error of 0.001 in it is 1 in x_0
MOST_SIGNAL = 0.05  # abar of the last step, which sampling takes for pure noise


@dataclass(frozen=True)
class NoiseSchedule:
    """The noise of training, and what the network makes of it."""

    alphas_cumprod: Tensor  # (T,) abar_t in [0, 1], falling from about 1 to about 0
    prediction_type: str  # one of PREDICTIONS
    learned_variance: bool  # the network predicts a variance too, in as many further channels


def read_schedule(folder: Path) -> NoiseSchedule:
    """The schedule of `folder`/scheduler_config.json. Raises ConfigError for one of another process."""
    path = folder / "scheduler_config.json"
    config = read_config(path)
    kind = config["_class_name"]
    if kind not in READABLE:
        process = next((what for start, what in OTHER_PROCESSES.items() if kind.startswith(start)), "another process")
        raise _unreadable(path, f"is of a {kind}, so of {process}")
    if config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction":
        raise _unreadable(path, f"is of a {kind} for {OTHER_PROCESSES['FlowM']}")
    if config.get("timestep_type") == "continuous":
        raise _unreadable(path, f"is of a {kind} for {OTHER_PROCESSES['ScoreSdeVp']} (timestep_type)")
    betas, said = _linear(config) or _built(path, kind, config)
    prediction = _prediction(path, config, said)
    # Not a scheduler's alphas_cumprod: some samplers raise a zero at the end of it.
    alphas = _checked(path, torch.cumprod(1 - betas, 0), prediction)
    return NoiseSchedule(alphas, prediction, str(config.get("variance_type")).startswith("learned"))


def _linear(config: dict[str, Any]) -> tuple[Tensor, str] | None:
    """The betas (T,) and the prediction of a DDPMScheduler that says all of them: the linear ones of Ho et al. 2020.

    None for any other, which diffusers builds; importing it takes seconds.
    """
    match config:
        case {
            "_class_name": "DDPMScheduler",
            "beta_schedule": "linear",
            "trained_betas": None,
            "rescale_betas_zero_snr": False,
            "num_train_timesteps": int(steps),
            "beta_start": float(first),
            "beta_end": float(last),
            "prediction_type": str(said),
        } if steps > 0:
            return torch.linspace(first, last, steps, dtype=torch.float32), said
    return None


def _built(path: Path, kind: str, config: dict[str, Any]) -> tuple[Tensor, str]:
    """The betas (T,) and the prediction of a scheduler of class `kind`; its defaults fill what the file leaves out."""
    import diffusers

    logging.getLogger("diffusers").setLevel(logging.ERROR)  # it warns of each key that another class has left there
    try:
        scheduler = getattr(diffusers, kind).from_config(config)
    except Exception as error:  # diffusers' errors on wrong values are of many kinds
        raise ConfigError(
            f"{path} is no {kind} ({in_one_line(error, 200)}); mend it, or save the prior again"
        ) from error
    return scheduler.betas.detach().float().cpu(), scheduler.config.prediction_type


def _prediction(path: Path, config: dict[str, Any], said: str) -> str:
    said = "sample" if said == "original_sample" else said
    legacy = config.get("predict_epsilon")  # diffusers until 0.13 said it so
    if legacy is not None:
        meant = "epsilon" if legacy else "sample"
        if config.get("prediction_type", meant) != meant:
            raise ConfigError(
                f"{path} says predict_epsilon = {str(legacy).lower()} and prediction_type = {said}; remove the wrong "
                "one"
            )
        return meant
    if said not in PREDICTIONS:
        raise ConfigError(f"{path} says that the network predicts {said!r}; only {', '.join(PREDICTIONS)} can be read")
    return said


def _checked(path: Path, alphas: Tensor, prediction: str) -> Tensor:
    """abar (T,); of a network that predicts noise, without the last steps if they hold no image at all."""
    falling = len(alphas) > 1 and bool((alphas.diff() <= 0).all())
    if not falling or not bool(((alphas >= 0) & (alphas <= 1)).all()) or float(alphas[0]) < 0.5:  # NaN fails each
        raise ConfigError(
            f"the betas of {path} are no noise schedule: they must be in [0, 1] and begin small; give those of training"
        )
    if float(alphas[-1]) > MOST_SIGNAL:
        raise ConfigError(
            f"{path} never reaches noise: after its {len(alphas)} steps {float(alphas[-1]):.2f} of an image's variance "
            "is left; give the num_train_timesteps and betas of training"
        )
    # Where the SNR is zero, x_0 = (x_t - sqrt(1 - abar) noise) / sqrt(abar) divides nothing by nothing.
    return alphas[alphas >= LEAST_SIGNAL] if prediction == "epsilon" else alphas


def _unreadable(path: Path, what: str) -> ConfigError:
    return ConfigError(
        f"{path} {what}; a prior is trained on x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise (DDPMScheduler, "
        "DDIMScheduler, ...), so give one of that process, such as fl-sim train-prior makes"
    )
