"""The user's side of the federation: a Flower ClientApp that answers TRAIN, EVALUATE and QUERY.

TRAIN     the model in, the (defended) gradient or weights out, with the number of photos and, where the
          threat model says so, the label proportions and the batch-norm statistics of the photos
EVALUATE  the model in, loss and accuracy on the user's held-out photos out
QUERY     the partition id, which Flower's message metadata does not carry
"""

import tomllib
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import nn

from clients import defenses, local_training
from clients.datasets import open_dataset
from clients.defenses import Defense
from clients.defenses.mods import client_mods, user_of, wrap
from clients.training import Private, Training, training_of
from clients.user import Faces, User
from fl_sim import models, seeds
from fl_sim.config import Config, Dataset, load, parse
from fl_sim.federation.secure_aggregation import masked
from fl_sim.initial_model import fresh_model
from fl_sim.modules import load_state
from fl_sim.threads import one_thread
from fl_sim.updates import Update, apply_gradient

ReadConfig = Callable[[Context], Config]


def client_app(read_config: ReadConfig) -> ClientApp:
    """A ClientApp whose config is `read_config(context)`; the same on every engine."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        config = read_config(context)
        loaded = defenses.load_all(config.defenses)
        mods = client_mods(loaded, config, lambda message, context: _private(config, loaded, message, context))
        answer = wrap(lambda message, context: _train(config, loaded, message, context), mods)
        if config.protocol.secure_aggregation:
            answer = masked(answer)
        # Flower's mods draw their noise, and SecAgg+ its rounding, from numpy's global generator.
        with one_thread(), seeds.global_generators(config.seed, "flower", _round(message), user_of(context)):
            reply = answer(message, context)
            if config.threat_model.batch_norm_statistics and not reply.has_error():
                reply.content["statistics"] = _statistics(config, loaded, message, context)  # not covered by any mod
            return reply

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        with one_thread():
            return _evaluate(read_config(context), message, context)

    @app.query()
    def query(message: Message, context: Context) -> Message:
        return Message(RecordDict({"metrics": MetricRecord({"partition-id": user_of(context)})}), reply_to=message)

    return app


def _train(config: Config, loaded: Sequence[Defense], message: Message, context: Context) -> Message:
    private = _private(config, loaded, message, context)
    user = _user(config.dataset, config.seed, user_of(context))
    model, training = private.model, private.training
    shuffle = seeds.generator(config.seed, "local", _round(message), user.partition)
    photos = Faces(training.photos, training.labels, user.private.attributes)
    steps = {"local_epochs": training.local_epochs, "batch_size": training.batch_size}
    gradient = local_training.local_update(model, photos, config.federation.model_copy(update=steps), shuffle)
    update: Update = gradient
    if config.federation.update == "weights":
        update = apply_gradient(models.trainable(model), gradient, config.federation.learning_rate)
    metrics = MetricRecord({"num-examples": len(training.photos), "partition-id": user.partition})
    if _round(message):
        metrics["server-round"] = _round(message)
    if config.threat_model.labels == "known":
        metrics["label-proportions"] = _label_proportions(training)
    return Message(RecordDict({"arrays": ArrayRecord(update), "metrics": metrics}), reply_to=message)


def _private(config: Config, loaded: Sequence[Defense], message: Message, context: Context) -> Private:
    """The model as it was sent and what the user trains on this round: the same whenever it is asked for."""
    user = _user(config.dataset, config.seed, user_of(context))
    classes = open_dataset(config.dataset, config.seed).num_classes
    training, model = training_of(user.private, classes, config.federation), _received(config, message)
    return Private(model, defenses.prepare(loaded, training, config.seed, _round(message), user.partition))


def _statistics(config: Config, loaded: Sequence[Defense], message: Message, context: Context) -> ArrayRecord:
    """Batch-norm statistics of all photos trained on as one batch, under the model as it was sent."""
    private = _private(config, loaded, message, context)
    with torch.no_grad():
        return ArrayRecord(models.batch_statistics(private.model, models.normalise(private.training.photos)))


def _evaluate(config: Config, message: Message, context: Context) -> Message:
    model, user = _received(config, message), _user(config.dataset, config.seed, user_of(context))
    result = local_training.evaluate(model, user.held_out)
    metrics = MetricRecord(
        {
            "num-examples": result.examples,
            "correct": result.correct,
            "loss": result.loss,
            "partition-id": user.partition,
        }
    )
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


def _round(message: Message) -> int:
    """The round that a TRAIN message is of; 0 for the key exchange of secure aggregation, which does not say."""
    config = message.content.config_records.get("config", ConfigRecord())
    return int(config.get("server-round", 0))  # type: ignore[arg-type]


def _label_proportions(training: Training) -> list[float]:
    return training.probabilities().double().mean(0).tolist()


def _received(config: Config, message: Message) -> nn.Module:
    classes = open_dataset(config.dataset, config.seed).num_classes
    model = _empty_model(config.model, classes, config.dataset.image_size, config.seed)
    load_state(model, message.content.array_records["arrays"].to_torch_state_dict())
    return model


# A process serves many users and rounds: an empty model is made once, users are kept.
_empty_model = lru_cache(maxsize=1)(fresh_model)


@lru_cache(maxsize=256)  # 40 photos of 64 px are 2 MB
def _user(dataset: Dataset, seed: int, partition: int) -> User:
    return open_dataset(dataset, seed).user(partition)


def config_file(context: Context) -> Config:
    """The config that the run config of `flwr run` holds as text, or names: relative to the app, or a full path."""
    if "toml" in context.run_config:
        return _parse(str(context.run_config["toml"]))
    return _load(str(Path(__file__).parents[1] / str(context.run_config["config"])))


@lru_cache(maxsize=1)
def _load(path: str) -> Config:
    return load(Path(path))


@lru_cache(maxsize=1)
def _parse(text: str) -> Config:
    return parse(Config, tomllib.loads(text))


app = client_app(config_file)
