"""The protocol between server and users: `[protocol]` of the config.

`check(config)` refuses what cannot work, `strategy(config)` is FedSGD, where asked for under differential privacy,
`Channel` gives the Grid of each round, through which the server sees what secure aggregation or shuffling let through.
Why the strategies of differential privacy are not Flower's own: docs/protocol.md has what those do.
"""

from collections.abc import Mapping

from flwr.serverapp import Grid
from torch import Tensor, nn

from fl_sim.config import Config, ConfigError
from fl_sim.federation.grids import SubsetGrid, nodes_by_partition
from fl_sim.federation.private_sgd import PrivateSGD
from fl_sim.federation.sampling import participants, users_per_round
from fl_sim.federation.secure_aggregation import SecureAggregation
from fl_sim.federation.shuffling import Shuffler
from fl_sim.federation.strategy import FedSGD


def check(config: Config) -> None:
    """Raise ConfigError for a protocol that cannot work or would not do what it says."""
    section, users = config.protocol, users_per_round(config)
    private, size = section.differential_privacy != "none", section.secure_aggregation
    if size == 1 or size > users:
        raise ConfigError(f"protocol.secure_aggregation is {size}; give 0, or from 2 to the {users} users of a round")
    if size and private:
        raise ConfigError(
            "protocol.differential_privacy clips and counts user by user, and with protocol.secure_aggregation a reply "
            "is a sum; take the defenses clip and gaussian_noise, which work under a sum"
        )
    if size and section.shuffle:
        raise ConfigError(
            "protocol.shuffle cannot go with protocol.secure_aggregation: SecAgg+ makes the server route keys between "
            "users whom it must tell apart; take one of them"
        )
    if size and config.threat_model.batch_norm_statistics:
        raise ConfigError(
            "threat_model.batch_norm_statistics would be sent beside the sum, user by user; "
            "unset it or protocol.secure_aggregation"
        )


def strategy(config: Config, model: nn.Module, bound: float | None = None) -> FedSGD:
    """FedSGD for `model`, under differential privacy where the config asks for it.

    `bound` is the L2 norm to which the coming round clips, of a run that goes on; None: `protocol.clipping_norm`.
    """
    section, federation = config.protocol, config.federation
    if section.differential_privacy == "none":
        return FedSGD(federation.learning_rate, federation.update)
    return PrivateSGD(
        federation.learning_rate,
        federation.update,
        [name for name, parameter in model.named_parameters() if parameter.requires_grad],
        users=users_per_round(config),
        noise_multiplier=section.noise_multiplier,
        clipping_norm=section.clipping_norm if bound is None else bound,
        seed=config.seed,
        adaptive=section.differential_privacy.endswith("_adaptive"),
        counted_by="clients" if section.differential_privacy.startswith("client_") else "server",
    )


class Channel:
    """What the server of a run talks through, round by round."""

    def __init__(self, grid: Grid, config: Config, like: Mapping[str, Tensor]) -> None:
        self._grid, self._config, self._like = grid, config, like
        self._all = users_per_round(config) == config.dataset.users
        as_it_is = self._all and not (config.protocol.secure_aggregation or config.protocol.shuffle)
        self._nodes = {} if as_it_is else nodes_by_partition(grid, config.federation.timeout)

    def of_round(self, server_round: int) -> Grid:
        """The Grid of that round."""
        section, taking_part = self._config.protocol, participants(self._config, server_round)
        nodes = {user: self._nodes[user] for user in taking_part if user in self._nodes}
        grid = self._grid if self._all else SubsetGrid(self._grid, nodes.values())
        if section.secure_aggregation:
            photos = self._config.dataset.photos
            return SecureAggregation(grid, nodes, section.secure_aggregation, self._like, photos)
        if section.shuffle:
            return Shuffler(grid, nodes, taking_part, self._config.seed, server_round)
        return grid
