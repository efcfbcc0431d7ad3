"""What identification proves about privacy: a lower limit of epsilon, beside the upper one that an accountant promises.

An attack looks at what a user sent and picks one of N people. Let it be right for a share P of users, who are drawn
like the N. Under replacing one user by another, an (epsilon, delta) mechanism has p_ii <= e^epsilon p_ji + delta for
all pairs of people i, j (p_ji: the chance that j's update is taken for i's). Summed over the pairs,

    P <= (e^epsilon + (N - 1) delta) / (e^epsilon + N - 1)

so that epsilon >= ln((N - 1)(P - delta) / (1 - P)). Of a Gaussian mechanism more is known: its trade-off curve
(Dong et al. 2022) gives mu >= Phi^-1(P) - Phi^-1((1 - P) / (N - 1)), and mu gives epsilon at any delta exactly
(Balle & Wang 2018). P is put in by its one-sided Clopper-Pearson lower limit, as in audits of training by membership
(Jagielski et al. 2020, Nasr et al. 2021); for local mechanisms see Arcolezi & Gambs 2024. docs/privacy_audit.md has
the conditions.
"""

import math

from scipy.stats import norm

from experiments.statistics.shares import LEVEL, lower_limit


def audited_epsilon(named: int, users: int, among: int, delta: float, gaussian: bool = False, tried: int = 1) -> float:
    """The largest epsilon, 0 or more, that `named` of `users` identified among `among` people disprove, at `delta`.

    Wrong (above the true epsilon) in at most 5 % of audits. `gaussian`: the mechanism adds Gaussian noise to something
    of bounded L2 norm, which allows the tighter form. `tried`: how many attacks and rounds the best was chosen from
    (Bonferroni). Raises ValueError for fewer than two people, or more named than users.
    """
    if among < 2 or not 0 <= named <= users:
        raise ValueError(
            f"{named} of {users} users named among {among} people; give two people or more, named <= users"
        )
    share = lower_limit(named, users, LEVEL / tried) if users else 0.0
    return _gaussian(share, among, delta) if gaussian else _any(share, among, delta)


def _any(share: float, among: int, delta: float) -> float:
    return math.log((among - 1) * (share - delta) / (1 - share)) if share > (1 + (among - 1) * delta) / among else 0.0


def _gaussian(share: float, among: int, delta: float) -> float:
    if share <= 1 / among:
        return 0.0
    from dp_accounting import get_epsilon_gaussian  # takes seconds

    mu = float(norm.ppf(share) - norm.ppf((1 - share) / (among - 1)))
    return float(get_epsilon_gaussian(1 / mu, delta))
