"""Update-side defenses as Flower client mods: each takes the reply to a TRAIN message and defends the update in it.

`client_mods(config, look)` lists them in the order in which they touch the update. A `package.module:factory`
that makes a Flower mod, a callable of (message, context, call_next) such as
`flwr.clientapp.mod:LocalDpMod`, is used as it is; Flower's own take the reply for weights, so they
need `federation.update = "weights"`. Users who clip for the server's differential privacy (`protocol`) do so last.
"""

from collections.abc import Callable, Sequence

from flwr.app import ArrayRecord, Context, Message
from flwr.clientapp.typing import ClientAppCallable, Mod

from clients.defenses import Defense, clip, generator_of, load_all
from clients.training import Private
from fl_sim import seeds
from fl_sim.config import Config
from fl_sim.updates import Update, apply_gradient, norm, to_gradient

BOUND = "clipping-norm"  # in the config that users are sent: the L2 norm to which they clip w' - w
WITHIN = "within-bound"  # in the metrics of users who clip: 1 if the change was not longer than that, else 0

Look = Callable[[Message, Context], Private]
"""What the user who got a TRAIN message has beside the update."""


def client_mods(config: Config, look: Look) -> list[Mod]:
    """One mod an update-side defense of the config, the first one to touch the update first. Raises ConfigError."""
    mods: list[Mod] = []
    for place, defense in enumerate(load_all(config.defenses)):
        if defense.acts_on == "message":
            mods.append(_flowers(defense, config, place))
        elif defense.acts_on == "update":
            mods.append(_mod(defense, config, place, look))
    if config.protocol.differential_privacy.startswith("client_"):
        mods.append(_clip_to_what_is_asked(config))
    return mods


def wrap(call: ClientAppCallable, mods: Sequence[Mod]) -> ClientAppCallable:
    """`call` with `mods` around it: the first mod is innermost, so it sees the reply first."""
    for mod in mods:
        call = _around(mod, call)
    return call


def _around(mod: Mod, call: ClientAppCallable) -> ClientAppCallable:
    return lambda message, context: mod(message, context, call)


def _flowers(defense: Defense, config: Config, place: int) -> Mod:
    """Somebody else's mod, for which numpy's and Python's global generators start afresh when the reply is made.

    Flower's draw their noise from there, and what loads photos may seed them: all users would get the same noise.
    """

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        def answer(message: Message, context: Context) -> Message:
            reply = call_next(message, context)
            seeds.seed_global_generators(config.seed, "mod", _round(message), _user(context), place)
            return reply

        made: Message = defense.call(message, context, answer)
        return made

    return mod


def _mod(defense: Defense, config: Config, place: int, look: Look) -> Mod:
    """A mod that applies `defense`, the one at `place` in the config, to the gradient in the reply."""

    def change(gradient: Update, message: Message, context: Context, reply: Message) -> Update:
        private = look(message, context) if defense.sees_private else None
        return defense.defend(gradient, generator_of(config.seed, _round(message), _user(context), place), private)

    return _on_gradient(change, config)


def _clip_to_what_is_asked(config: Config) -> Mod:
    """A mod that clips a user's change of the weights to the bound in the message, and says whether it had to."""
    rate = config.federation.learning_rate

    def change(gradient: Update, message: Message, context: Context, reply: Message) -> Update:
        bound = float(message.content.config_records["config"][BOUND])  # type: ignore[arg-type]
        reply.content.metric_records["metrics"][WITHIN] = int(rate * norm(gradient) <= bound)
        return clip.clipped(gradient, bound / rate)

    return _on_gradient(change, config)


def _on_gradient(change: Callable[[Update, Message, Context, Message], Update], config: Config) -> Mod:
    """A mod that replaces the gradient in a reply by `change(gradient, message, context, reply)`.

    Where the reply is weights, the gradient is read off them and put back: a norm bound or a noise
    level is about what the user adds to the model, never about the model itself.
    """
    rate, as_weights = config.federation.learning_rate, config.federation.update == "weights"

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        sent = message.content.array_records["arrays"].to_torch_state_dict() if as_weights else {}
        reply = call_next(message, context)
        if reply.has_error():
            return reply
        update: Update = dict(reply.content.array_records["arrays"].to_torch_state_dict())
        if as_weights:
            update = to_gradient(sent, update, rate)
        update = change(update, message, context, reply)
        if as_weights:
            update = apply_gradient(sent, update, rate)
        reply.content["arrays"] = ArrayRecord(update)
        return reply

    return mod


def _round(message: Message) -> int:
    return int(message.content.config_records["config"]["server-round"])  # type: ignore[arg-type]


def _user(context: Context) -> int:
    return int(context.node_config["partition-id"])
