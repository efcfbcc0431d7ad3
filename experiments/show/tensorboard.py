"""A run for TensorBoard: training and leakage as curves over the rounds, reconstructions as images.

    FOLDER/RUN/training       training/FIGURE: accuracy, loss, accepted, rejected, seconds
               ARM            ATTACK/FIGURE: the figures of experiments.statistics.aggregate
               attack         ATTACK/user-0003: the reconstructions
               prior_only     LABEL/user-0003: faces drawn without any update

Steps are rounds. Each arm is a run of its own for TensorBoard, so a chart shows an attack beside its controls. Private
photos are never written, whoever they are of; users shown are those of the report's gallery.
"""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor

from experiments.show import tracking
from experiments.show.report.run_data import RunData, read
from fl_sim.config import ConfigError
from fl_sim.runs import RunFolder, private_folder


def check() -> None:
    """ConfigError where the package is missing."""
    if find_spec("tensorboard") is None:
        raise ConfigError(
            "--tensorboard needs the package tensorboard; install it with pip install 'fl-sim[tensorboard]'"
        )


def write(run: RunFolder, folder: Path) -> Path:
    """Write what `run` holds below `folder`, in the place of what an earlier call wrote of it; the path to look at.

    For its owner alone, as the run itself. Raises FileNotFoundError for a folder without config.toml.
    """
    from torch.utils.tensorboard import SummaryWriter

    run_data, target = read(run), folder / run.name
    private_folder(folder)
    for old in target.glob("*/events.out.tfevents.*"):  # TensorBoard would draw both
        old.unlink()
    writers: dict[str, Any] = {}
    with tracking.private():
        try:
            for arm, tag, value, step in [*_curves(run_data), *_pictures(run_data)]:
                if arm not in writers:
                    writers[arm] = SummaryWriter(str(target / arm))
                if isinstance(value, Tensor):
                    writers[arm].add_image(tag, value, step)
                else:
                    writers[arm].add_scalar(tag, value, step)
        finally:
            for writer in writers.values():
                writer.close()
    return target


def _curves(run_data: RunData) -> Iterator[tuple[str, str, float, int]]:
    """(arm, tag, value, round) of all that is finite."""
    yield from (("training", *figure) for figure in tracking.training(run_data))
    for attack, arm, figure, interval, server_round in tracking.leakage(run_data):
        if interval.known:
            yield arm, f"{attack}/{figure}", interval.mean, server_round


def _pictures(run_data: RunData) -> Iterator[tuple[str, str, Tensor, int]]:
    """(arm, tag, image (3, H, W) as bytes, round) of the first users who were measured."""
    for label, user, image, server_round in tracking.reconstructions(run_data):
        arm = "prior_only" if label in run_data.priors else "attack"
        yield arm, f"{label}/user-{user:04d}", image, server_round
