"""Update-side defenses as Flower client mods: each takes the reply to a TRAIN message and defends the update in it.

`client_mods(config, look)` lists them in the order in which they touch the update. A `package.module:factory`
that makes a Flower mod, a callable of (message, context, call_next) such as
`flwr.clientapp.mod:LocalDpMod`, is used as it is; Flower's own take the reply for weights, so they
need `federation.update = "weights"`. The mods that Flower's strategies with clients that clip need come last.
"""

from collections.abc import Callable, Sequence

import torch
from flwr.app import ArrayRecord, Context, Message
from flwr.clientapp.mod import adaptiveclipping_mod, fixedclipping_mod
from flwr.clientapp.typing import ClientAppCallable, Mod

from clients.defenses import Defense, generator_of, load_all
from clients.training import Private
from fl_sim.config import Config
from fl_sim.updates import apply_gradient, to_gradient

Look = Callable[[Message, Context], Private]
"""What the user who got a TRAIN message has beside the update."""


def client_mods(config: Config, look: Look) -> list[Mod]:
    """One mod an update-side defense of the config, the first one to touch the update first. Raises ConfigError."""
    mods: list[Mod] = []
    for place, defense in enumerate(load_all(config.defenses)):
        if defense.acts_on == "message":
            mods.append(defense.call)
        elif defense.acts_on == "update":
            mods.append(_mod(defense, config, place, look))
    clips = {"client_fixed": fixedclipping_mod, "client_adaptive": adaptiveclipping_mod}
    kind = config.protocol.differential_privacy
    return [*mods, clips[kind]] if kind in clips else mods


def wrap(call: ClientAppCallable, mods: Sequence[Mod]) -> ClientAppCallable:
    """`call` with `mods` around it: the first mod is innermost, so it sees the reply first."""
    for mod in mods:
        call = _around(mod, call)
    return call


def _around(mod: Mod, call: ClientAppCallable) -> ClientAppCallable:
    return lambda message, context: mod(message, context, call)


def _mod(defense: Defense, config: Config, place: int, look: Look) -> Mod:
    """A mod that applies `defense`, the one at `place` in the config, to the gradient in the reply.

    Where the reply is weights, the gradient is read off them and put back: a norm bound or a noise
    level is about what the user adds to the model, never about the model itself.
    """
    rate, as_weights = config.federation.learning_rate, config.federation.update == "weights"

    def mod(message: Message, context: Context, call_next: Callable[[Message, Context], Message]) -> Message:
        sent = message.content.array_records["arrays"].to_torch_state_dict() if as_weights else {}
        server_round = int(message.content.config_records["config"]["server-round"])  # type: ignore[arg-type]
        user = int(context.node_config["partition-id"])
        reply = call_next(message, context)
        if reply.has_error():
            return reply
        update: dict[str, torch.Tensor] = dict(reply.content.array_records["arrays"].to_torch_state_dict())
        if as_weights:
            update = to_gradient(sent, update, rate)
        private = look(message, context) if defense.sees_private else None
        update = defense.defend(update, generator_of(config.seed, server_round, user, place), private)
        if as_weights:
            update = apply_gradient(sent, update, rate)
        reply.content["arrays"] = ArrayRecord(update)
        return reply

    return mod
