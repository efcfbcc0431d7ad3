"""Update-side defenses as Flower client mods: each takes the reply to a TRAIN message and defends the update in it.

`client_mods(defenses, config, look)` lists them in the order in which they touch the update. A `package.module:factory`
that makes a Flower mod, a callable of (message, context, call_next) such as
`flwr.clientapp.mod:LocalDpMod`, is used as it is; Flower's own take the reply for weights, so they
need `federation.update = "weights"`. Users who clip for the server's differential privacy (`protocol`) do so last.
"""

from collections.abc import Callable, Sequence

from flwr.app import ArrayRecord, Context, Message
from flwr.clientapp.typing import ClientAppCallable, Mod
from torch import nn

from clients.defenses import Defense, clip, generator_of
from clients.training import Private
from fl_sim import seeds
from fl_sim.config import Config, ConfigError, Federation
from fl_sim.federation.private_sgd import BOUND, WITHIN
from fl_sim.updates import Update, apply_gradient, norm, to_gradient

FLOWER_CLIPS = (
    "take a reply for weights and clip reply - w; of a gradient g they would make w + clip(g - w), "
    'which is no gradient at all; set federation.update = "weights"'
)

Look = Callable[[Message, Context], Private]
"""What the user who got a TRAIN message has beside the update."""


def check(defenses: Sequence[Defense], config: Config, model: nn.Module) -> None:
    """ConfigError for one of Flower's client mods that would not do to the updates of `model` what it says."""
    mods = [defense for defense in defenses if defense.name.startswith("flwr.")]
    if not mods:
        return
    name = mods[0].name
    if config.federation.update == "gradient":
        raise ConfigError(f"{name}: Flower's mods {FLOWER_CLIPS}")
    if dict(model.named_buffers()):
        raise ConfigError(
            f"{name} would put noise on the buffers of model {config.model.name!r} too, and needs them in the "
            "reply; take a model without batch norm, such as convnet"
        )
    scalars = [parameter for parameter, value in model.named_parameters() if value.ndim == 0]
    if scalars:
        raise ConfigError(
            f"{name} neither clips nor adds noise to a parameter without dimensions, such as {scalars[0]!r} of model "
            f"{config.model.name!r} (flwr 1.41 and 1.42); take the defense local_dp, which does"
        )
    for defense in mods:
        epsilon, delta = (defense.settings.get(key, 0.5) for key in ("epsilon", "delta"))
        if not epsilon > 0 or not 0 < delta < 1:
            raise ConfigError(
                f"{defense.name} has epsilon {epsilon} and delta {delta}; its noise needs epsilon above 0 and delta "
                "in (0, 1), such as 1e-5"
            )


def client_mods(defenses: Sequence[Defense], config: Config, look: Look) -> list[Mod]:
    """One mod an update-side defense, the first one to touch the update first."""
    mods: list[Mod] = []
    for place, defense in enumerate(defenses):
        if defense.acts_on == "message":
            mods.append(_flowers(defense, config.seed, place))
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


def _flowers(defense: Defense, seed: int, place: int) -> Mod:
    """Somebody else's mod, for which numpy's and Python's global generators start afresh when the reply is made.

    Flower's draw their noise from there, and what loads photos may seed them: all users would get the same noise.
    """

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        def answer(message: Message, context: Context) -> Message:
            reply = call_next(message, context)
            seeds.seed_global_generators(seed, "mod", _round(message), user_of(context), place)
            return reply

        made: Message = defense.call(message, context, answer)
        return made

    return mod


def _mod(defense: Defense, config: Config, place: int, look: Look) -> Mod:
    """A mod that applies `defense`, the one at `place` in the config, to the gradient in the reply."""

    def change(gradient: Update, message: Message, context: Context, reply: Message) -> Update:
        private = look(message, context) if defense.sees_private else None
        return defense.defend(gradient, generator_of(config.seed, _round(message), user_of(context), place), private)

    return _on_gradient(change, config.federation)


def _clip_to_what_is_asked(config: Config) -> Mod:
    """A mod that clips a user's change of the weights to the bound in the message, and says whether it had to."""
    rate = config.federation.learning_rate

    def change(gradient: Update, message: Message, context: Context, reply: Message) -> Update:
        bound = float(message.content.config_records["config"][BOUND])  # type: ignore[arg-type]
        reply.content.metric_records["metrics"][WITHIN] = int(rate * norm(gradient) <= bound)
        return clip.clipped(gradient, bound / rate)

    return _on_gradient(change, config.federation)


def _on_gradient(change: Callable[[Update, Message, Context, Message], Update], section: Federation) -> Mod:
    """A mod that replaces the gradient in a reply by `change(gradient, message, context, reply)`.

    Where the reply is weights, the gradient is read off them and put back: a norm bound or a noise
    level is about what the user adds to the model, never about the model itself.
    """
    rate, as_weights = section.learning_rate, section.update == "weights"

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


def user_of(context: Context) -> int:
    """The number of the user whose context that is."""
    return int(context.node_config["partition-id"])
