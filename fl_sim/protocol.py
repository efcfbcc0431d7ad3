"""The protocol between server and users: `[protocol]` of the config, made of Flower's parts where it has them.

`check(config)` refuses what cannot work, `strategy(config)` is FedSGD inside Flower's differential privacy,
`Channel` gives the Grid of each round, through which the server sees what secure aggregation or shuffling let through.
"""

from collections.abc import Mapping

from flwr.serverapp import Grid
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from clients.defenses import split
from fl_sim.config import Config, ConfigError
from fl_sim.relay import Only, nodes_by_partition
from fl_sim.sampling import participants, users_per_round
from fl_sim.secure_aggregation import SecureAggregation
from fl_sim.shuffling import Shuffler
from fl_sim.strategy import FedSGD
from fl_sim.victim import initial_model

FLOWER_CLIPS = (
    "take a reply for weights and clip reply - w; of a gradient g they would make w + clip(g - w), "
    'which is no gradient at all; set federation.update = "weights"'
)


def check(config: Config) -> None:
    """Raise ConfigError for a protocol that cannot work or would not do what it says."""
    section, users = config.protocol, users_per_round(config)
    private, size = section.differential_privacy != "none", section.secure_aggregation
    mods = [name for name, _ in map(split, config.defenses) if name.startswith("flwr.")]
    flowers = ([f"protocol.differential_privacy = {section.differential_privacy!r}"] if private else []) + mods
    if flowers and config.federation.update == "gradient":
        raise ConfigError(f"{flowers[0]}: Flower's strategies and mods {FLOWER_CLIPS}")
    if flowers and dict(initial_model(config).named_buffers()):
        raise ConfigError(
            f"{flowers[0]} would put noise on the buffers of model {config.model.name!r} too, and needs them in the "
            "reply; take a model without batch norm, such as convnet"
        )
    if size == 1 or size > users:
        raise ConfigError(f"protocol.secure_aggregation is {size}; give 0, or from 2 to the {users} users of a round")
    if size and private:
        raise ConfigError(
            "Flower's differential privacy counts replies, and with protocol.secure_aggregation a reply is a sum; "
            "take the defenses clip and gaussian_noise, which work under a sum"
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
    strategy(config)


def strategy(config: Config) -> Strategy:
    """FedSGD, inside Flower's differential privacy where the config asks for it."""
    section, federation, users = config.protocol, config.federation, users_per_round(config)
    kind, multiplier, norm = section.differential_privacy, section.noise_multiplier, section.clipping_norm
    plain = FedSGD(federation.learning_rate, federation.update, uniform=kind != "none")
    try:
        if kind == "server_fixed":
            return flower.DifferentialPrivacyServerSideFixedClipping(plain, multiplier, norm, users)
        if kind == "client_fixed":
            return flower.DifferentialPrivacyClientSideFixedClipping(plain, multiplier, norm, users)
        if kind == "server_adaptive":
            return flower.DifferentialPrivacyServerSideAdaptiveClipping(plain, multiplier, users, norm)
        if kind == "client_adaptive":
            return flower.DifferentialPrivacyClientSideAdaptiveClipping(plain, multiplier, users, norm)
    except ValueError as error:
        raise ConfigError(f"protocol.differential_privacy = {kind!r}: {error}") from error
    return plain


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
        grid = self._grid if self._all else Only(self._grid, nodes.values())
        if section.secure_aggregation:
            photos = self._config.dataset.photos
            return SecureAggregation(grid, nodes, section.secure_aggregation, self._like, photos)
        if section.shuffle:
            return Shuffler(grid, nodes, self._config.seed, server_round)
        return grid
