"""Grids that misbehave the way a network and its users do, and a way to run a strategy on one."""

import random
from collections.abc import Callable, Iterable

from flwr.app import ArrayRecord, Message
from flwr.serverapp.strategy import Strategy
from tiny_faces import open_tiny

from clients.app import client_app, fresh_model
from fl_sim.config import Config
from fl_sim.engines.inprocess import InProcessGrid


class ShuffledGrid(InProcessGrid):
    """Node ids drawn afresh, replies in another order every time, and each reply through `tamper`."""

    def __init__(
        self, config: Config, seed: int = 0, tamper: Callable[[Message], Iterable[Message]] = lambda m: [m]
    ) -> None:
        super().__init__(client_app(lambda context: config), config.dataset.users)
        self._random = random.Random(seed)
        self._tamper = tamper
        contexts = list(self._contexts.values())
        self._random.shuffle(contexts)
        self._contexts = {self._random.getrandbits(64): context for context in contexts}
        for node, context in self._contexts.items():
            context.node_id = node

    def partition_of(self, node: int) -> int:
        return int(self._contexts[node].node_config["partition-id"])

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        replies = [kept for reply in super().send_and_receive(messages) for kept in self._tamper(reply)]
        self._random.shuffle(replies)
        return replies


def initial_arrays(config: Config) -> ArrayRecord:
    return ArrayRecord(
        fresh_model(
            config.model, open_tiny(config.dataset, config.seed).num_classes, config.dataset.image_size, config.seed
        ).state_dict()
    )


def train(strategy: Strategy, config: Config, grid: InProcessGrid | None = None) -> ArrayRecord:
    """The final parameters after the config's rounds, run by Flower's own loop."""
    result = strategy.start(
        grid or ShuffledGrid(config), initial_arrays(config), num_rounds=config.federation.rounds, timeout=60
    )
    return result.arrays
