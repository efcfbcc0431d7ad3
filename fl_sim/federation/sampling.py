"""Which users take part in a round: all of them, or a few drawn afresh (McMahan et al. 2017, the fraction C)."""

import torch

from fl_sim import seeds
from fl_sim.config import Config, ConfigError


def users_per_round(config: Config) -> int:
    """How many users are asked in each round. ConfigError if there are not so many."""
    count, users = config.federation.users_per_round, config.dataset.users
    if count > users:
        raise ConfigError(
            f"federation.users_per_round is {count}, but there are {users} users; lower it, raise dataset.users, or "
            "give 0 for all"
        )
    return count or users


def participants(config: Config, server_round: int) -> list[int]:
    """The users of a round, ascending; drawn without replacement, each equally likely."""
    count, users = users_per_round(config), config.dataset.users
    if count == users:
        return list(range(users))
    drawn = torch.randperm(users, generator=seeds.generator(config.seed, "participants", server_round))
    return sorted(drawn[:count].tolist())
