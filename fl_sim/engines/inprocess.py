"""All clients in this process, one after the other: no Ray, no network; for tests, debugging, small runs."""

import copy
import logging
import uuid
from collections.abc import Iterable
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.task_identity import TaskIdentity

from fl_sim import seeds


class InProcessGrid(Grid):
    """A Grid whose nodes are calls of `client_app`; an exception in one becomes an error reply, as in Flower."""

    def __init__(self, client_app: ClientApp, num_users: int) -> None:
        # Flower stamps messages with the identity of the task at hand, which its own engines set.
        TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1
        self._client_app = client_app
        self._contexts: dict[int, Context] = {}
        for partition in range(num_users):
            node = 2 * seeds.derive(0, "node", partition) + 1  # like Flower's: 64 bits, and no order in them
            node_config: dict[str, Any] = {"partition-id": partition, "num-partitions": num_users}
            self._contexts[node] = Context(
                run_id=1, node_id=node, node_config=node_config, state=RecordDict(), run_config={}
            )

    def get_node_ids(self) -> Iterable[int]:
        return list(self._contexts)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """The replies, in the order of `messages`; there is nothing to wait for, so `timeout` plays no part."""
        return [self._deliver(message) for message in messages]

    def _deliver(self, message: Message) -> Message:
        message.metadata.__dict__["_message_id"] = str(uuid.uuid4())  # Flower's grids do the same
        context = self._contexts[message.metadata.dst_node_id]
        try:
            # A copy: what a client does to its message must not reach the server or other clients.
            return self._client_app(copy.deepcopy(message), context)
        except (Exception, SystemExit) as error:  # whatever a client raises, the round goes on
            reason = f"{type(error).__name__}: {error}"
            return Message(Error(code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason=reason), reply_to=message)

    def set_run(self, run: Any) -> None:
        raise NotImplementedError("the in-process grid carries one run")

    @property
    def run(self) -> Any:
        raise NotImplementedError("the in-process grid has no run record")

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise NotImplementedError("build messages with flwr.app.Message")

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise NotImplementedError("use send_and_receive")

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise NotImplementedError("use send_and_receive")


def run(server_app: ServerApp, client_app: ClientApp, num_users: int) -> None:
    """Run `server_app` on an in-process grid of `num_users` clients."""
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
    logger = logging.getLogger("flwr")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # Flower's mods and protocols log every message of every user
    try:
        server_app(InProcessGrid(client_app, num_users), context)
    finally:
        logger.setLevel(level)
