"""Whether a run has all rounds that its config asks for."""

import pandas as pd

from attacker.capture.store import CaptureStore
from fl_sim.config import Config, ConfigError
from fl_sim.runs import RunFolder


def all_rounds(folder: RunFolder, config: Config) -> bool:
    """Whether all rounds of `config` are captured, and evaluated: one that was stopped between the two is not done.

    Nor is what cannot be read: training, which takes it up, rebuilds it or says what is damaged.
    """
    try:
        captured = len(CaptureStore(folder).finished_rounds())
    except (OSError, ConfigError):
        return False
    return captured == evaluated_rounds(folder) == config.federation.rounds


def evaluated_rounds(folder: RunFolder) -> int:
    """Of how many rounds the accuracy is known: rounds that are over; 0 too where they cannot be read."""
    try:
        return len(pd.read_parquet(folder.rounds))
    except (OSError, ValueError):  # pyarrow's errors are ValueErrors
        return 0
