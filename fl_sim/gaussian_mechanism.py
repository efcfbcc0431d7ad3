"""How much Gaussian noise an epsilon takes: what a user adds, and what an attacker who knows epsilon expects."""

from functools import lru_cache
from math import isinf


@lru_cache(maxsize=16)
def std(epsilon: float, delta: float, sensitivity: float) -> float:
    """The standard deviation that gives (epsilon, delta) once, in units of the L2 `sensitivity`; 0 at epsilon inf.

    The exact calibration (Balle & Wang 2018), valid above epsilon 1 too, by dp-accounting.
    """
    if isinf(epsilon):
        return 0.0
    # Here, not above: it takes seconds to import.
    from dp_accounting.pld.common import DifferentialPrivacyParameters
    from dp_accounting.pld.privacy_loss_mechanism import GaussianPrivacyLoss

    loss = GaussianPrivacyLoss.from_privacy_guarantee(DifferentialPrivacyParameters(epsilon, delta), sensitivity)
    return float(loss.standard_deviation)
