"""Somebody else's federation under audit: it trains as it would without, and all that Flower accepts is captured."""

import random

import pytest
import torch
from external_nets import Net, normed, tied
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.server import Server, SimpleClientManager
from flwr.server.strategy import FedAvg as LegacyFedAvg
from flwr.serverapp import ServerApp, strategy
from torch.nn import functional as F

from attacker.capture.audit_plugin import AuditedStrategy, ExternalModel, LocalTraining
from attacker.capture.store import CaptureStore
from fl_sim.config import ConfigError
from fl_sim.engines.inprocess import InProcessGrid
from fl_sim.runs import RunFolder
from fl_sim.state_dicts import ModelTensors

RATE, USERS, ROUNDS = 0.1, 7, 2
ALL = {"min_train_nodes": USERS, "min_evaluate_nodes": 0, "min_available_nodes": USERS, "fraction_evaluate": 0.0}


def photos(user):
    generator = torch.Generator().manual_seed(user)
    return torch.rand(3, 3, 32, 32, generator=generator), torch.randint(2, (3,), generator=generator)


def trained(network, user):
    """After one step on the user's photos: the user's gradient."""
    images, labels = photos(user)
    network.zero_grad()
    F.cross_entropy(network(images), labels).backward()
    gradient = {name: parameter.grad.clone() for name, parameter in network.named_parameters()}
    with torch.no_grad():
        for parameter in network.parameters():
            parameter -= RATE * parameter.grad
    return gradient


def client(factory, send, metrics, truth):
    """Somebody's ClientApp: loads what it is sent, trains, and answers `send(state dict)` with `metrics(user)`.

    `truth` gets the gradients, by user, of each round.
    """
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        user, network = int(context.node_config["partition-id"]), factory()
        record = next(iter(message.content.array_records.values()))
        fitted = ModelTensors(network).fit(record.to_torch_state_dict())
        network.load_state_dict(fitted.values, strict=False)
        truth.setdefault(user, []).append(trained(network, user))
        told = MetricRecord({"partition-id": user, **metrics(user)})
        return Message(RecordDict({"anything": send(network.state_dict()), "told": told}), reply_to=message)

    return app


def counted(user):
    return {"num-examples": 3}


def federation(inner, factory=Net, send=ArrayRecord, metrics=counted, sent=ArrayRecord):
    """The result of training, and the users' true gradients."""
    random.seed(0)
    truth = {}
    grid = InProcessGrid(client(factory, send, metrics, truth), USERS)
    return inner.start(grid, sent(factory().state_dict()), num_rounds=ROUNDS, timeout=60), truth


def audited(inner, folder, factory=Net):
    return AuditedStrategy(inner, ExternalModel.of(factory, 32), LocalTraining(1, 0, RATE), folder)


def same(left, right):
    """Whether two runs ended in the same parameters, bit for bit, and metrics."""
    arrays = list(left.arrays) == list(right.arrays) and all(left.arrays[n] == right.arrays[n] for n in left.arrays)
    return arrays and left.train_metrics_clientapp == right.train_metrics_clientapp


def private(inner):
    return strategy.DifferentialPrivacyServerSideFixedClipping(inner, 0.0, 1.0, USERS)


STRATEGIES = {
    "FedAvg": lambda: strategy.FedAvg(**ALL),
    "FedAvgM": lambda: strategy.FedAvgM(**ALL, server_momentum=0.9),
    "FedAdam": lambda: strategy.FedAdam(**ALL),
    "FedAdagrad": lambda: strategy.FedAdagrad(**ALL),
    "FedYogi": lambda: strategy.FedYogi(**ALL),
    "FedMedian": lambda: strategy.FedMedian(**ALL),
    "FedTrimmedAvg": lambda: strategy.FedTrimmedAvg(**ALL),
    "FedProx": lambda: strategy.FedProx(**ALL, proximal_mu=0.1),
    "Krum": lambda: strategy.Krum(**ALL, num_malicious_nodes=1),
    "MultiKrum": lambda: strategy.MultiKrum(**ALL, num_malicious_nodes=1, num_nodes_to_select=3),
    "QFedAvg": lambda: strategy.QFedAvg(**ALL, client_learning_rate=RATE),
    "Bulyan": lambda: strategy.Bulyan(**ALL, num_malicious_nodes=1),
    "private": lambda: private(strategy.FedAvg(**ALL)),
    "weights": lambda: strategy.FedAvg(**ALL, weighted_by_key="weight"),
    "samples": lambda: strategy.FedAdam(**ALL, weighted_by_key="samples"),
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_training_is_bit_for_bit_what_it_is_without(name, tmp_path):
    def metrics(user):
        return {"num-examples": 3.0, "weight": 0.25 + user, "samples": 3 + user, "train_loss": 0.5 + user}

    plain, _ = federation(STRATEGIES[name](), metrics=metrics)
    under_audit, truth = federation(audited(STRATEGIES[name](), tmp_path), metrics=metrics)
    assert same(plain, under_audit)
    captured(tmp_path, truth, examples=3)


def captured(folder, truth, names=None, examples=None, rounds=ROUNDS, tolerance=2e-6):
    """The captures are the users' gradients, zero beside `names`; what was noted of them."""
    store = CaptureStore(RunFolder(folder))
    assert store.finished_rounds() == list(range(1, rounds + 1))
    for number in store.finished_rounds():
        assert store.users(number) == list(range(USERS)), store.rejected()
        for user in store.users(number):
            seen, true = store.observation(number, user, 99), truth[user][number - 1]
            assert list(seen.gradient) == list(true)
            assert seen.num_examples == (examples or 99)
            for name, value in true.items():
                expected = value if names is None or name in names else torch.zeros_like(value)
                torch.testing.assert_close(seen.gradient[name], expected, rtol=0, atol=tolerance)
    rows = store.replies(1)
    assert len({tuple(row.get("notes", ())) for row in rows}) == 1
    return " ".join(rows[0].get("notes", ()))


def as_half(state):
    return ArrayRecord({name: value.half() for name, value in state.items()})


def as_double(state):
    return ArrayRecord({name: value.double() for name, value in state.items()})


def as_arrays(state):
    return ArrayRecord([value.numpy() for value in state.values()])


def behind(state):
    return ArrayRecord({f"module.{name}": value for name, value in state.items()})


def head(state):
    return ArrayRecord({name: value for name, value in state.items() if "head" in name})


def with_optimiser(state):
    return ArrayRecord({**state, "momentum.conv1": torch.ones(3)})


@pytest.mark.parametrize("factory", [Net, normed, tied])
@pytest.mark.parametrize(
    ("send", "told"), [(as_half, ""), (as_double, ""), (as_arrays, "the state dict in that order"), (behind, "module.")]
)
def test_arrays_of_any_name_and_precision_are_captured(factory, send, told, tmp_path):
    def seeded():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return factory()

    plain, _ = federation(strategy.FedAvg(**ALL), seeded, send, sent=send)
    under_audit, truth = federation(audited(strategy.FedAvg(**ALL), tmp_path, factory), seeded, send, sent=send)
    assert same(plain, under_audit)
    assert told in captured(tmp_path, truth, examples=3, tolerance=2e-2 if send is as_half else 2e-6)


def test_a_head_alone_is_an_update_whose_rest_is_zero(tmp_path):
    for sent, folder in ((head, tmp_path / "head"), (ArrayRecord, tmp_path / "all")):
        plain, _ = federation(strategy.FedAvg(**ALL), send=head, sent=sent)
        under_audit, truth = federation(audited(strategy.FedAvg(**ALL), folder), send=head, sent=sent)
        assert same(plain, under_audit)
        assert "taken as frozen: zero gradient" in captured(folder, truth, {"head.weight", "head.bias"}, 3)


def test_the_rest_must_be_known(tmp_path):
    def sent(state):
        return ArrayRecord({name: value for name, value in state.items() if name.startswith("5.")})

    with pytest.raises(ConfigError, match=r"the server sends no '0.weight' and .* let the factory load"):
        federation(audited(strategy.FedAvg(**ALL), tmp_path, normed), normed, sent, sent=sent)


def test_what_is_not_the_models_is_left_out_and_told(tmp_path):
    plain, _ = federation(strategy.FedAvg(**ALL), send=with_optimiser)
    under_audit, truth = federation(audited(strategy.FedAvg(**ALL), tmp_path), send=with_optimiser)
    assert same(plain, under_audit)
    assert "left out: 'momentum.conv1'" in captured(tmp_path, truth, examples=3)


@pytest.mark.parametrize(
    ("key", "value", "examples", "told"),
    [
        ("num-examples", 3.0, 3, ""),
        ("samples", 3, 3, "counted by the metric 'samples'"),
        ("samples", 3.0, 3, "counted by the metric 'samples'"),
        ("weight", 1, None, "do not say of how many photos"),
        ("weight", 0.37, None, "do not say of how many photos"),
        ("num-examples", 2.5, None, "do not say of how many photos"),
    ],
)
def test_photos_are_counted_by_what_the_app_weighs_by(key, value, examples, told, tmp_path):
    inner = strategy.FedAvg(**ALL, weighted_by_key=key)
    _, truth = federation(audited(inner, tmp_path), metrics=lambda user: {key: value})
    assert told in captured(tmp_path, truth, examples=examples)
    if examples is None:
        with pytest.raises(ConfigError, match=r"user 0 did not tell .* give --num-examples"):
            CaptureStore(RunFolder(tmp_path)).observation(1, 0)


def test_one_photo_each_may_be_a_weight_so_it_is_told_and_may_be_said_otherwise(tmp_path):
    _, truth = federation(audited(strategy.FedAvg(**ALL), tmp_path), metrics=lambda user: {"num-examples": 1})
    assert "said to be of one photo; if that is a weight, give --num-examples" in captured(tmp_path, truth)
    store = CaptureStore(RunFolder(tmp_path))
    assert store.observation(1, 0).num_examples == 1
    assert store.observation(1, 0, num_examples=24).num_examples == 24


def spoiling(spoil):
    """What user 2 alone sends."""

    def send(state):
        return ArrayRecord(spoil(dict(state)))

    return send


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda state: {name: value * torch.nan for name, value in state.items()}, "'conv1.weight' holds NaN or Inf"),
        (lambda state: {name: value[:1] for name, value in state.items()}, "has shape (1, 3, 5, 5), expected"),
        (lambda state: {str(number): value for number, value in enumerate([*state.values()][:-1])}, "have no names"),
        (lambda state: {"other": torch.ones(2)}, "no parameter of the model"),
        (lambda state: dict(Net().state_dict()), "nothing was trained"),
    ],
)
def test_what_cannot_be_read_is_said_and_reaches_the_strategy_all_the_same(spoil, reason, tmp_path):
    plain, _ = federation(strategy.FedAvg(**ALL), send=spoiling(spoil))
    under_audit, _ = federation(audited(strategy.FedAvg(**ALL), tmp_path), send=spoiling(spoil))
    assert same(plain, under_audit)
    rows = CaptureStore(RunFolder(tmp_path)).replies(1)
    assert all(row["status"] == "rejected" and reason in row["reason"] for row in rows)


def test_gradients_in_the_place_of_weights_are_noticed(tmp_path):
    send = spoiling(lambda state: {name: value - Net().state_dict()[name] for name, value in state.items()})
    federation(audited(strategy.FedAvg(**ALL), tmp_path), send=send)
    assert "differences" in " ".join(CaptureStore(RunFolder(tmp_path)).replies(1)[0]["notes"])


class Halving(strategy.FedAvg):
    """Sends all users the model in half precision; a `favourite` node gets another one."""

    favourite = None

    def configure_train(self, server_round, arrays, config, grid):
        messages = list(super().configure_train(server_round, arrays, config, grid))
        for place, message in enumerate(messages):
            sent = {name: value.half() for name, value in arrays.to_torch_state_dict().items()}
            if place == self.favourite:
                sent["head.bias"] += 1
            message.content = RecordDict({"arrays": ArrayRecord(sent)})
        return messages


def test_the_gradient_is_from_what_was_sent_and_not_from_what_the_server_has(tmp_path):
    plain, _ = federation(Halving(**ALL))
    under_audit, truth = federation(audited(Halving(**ALL), tmp_path))
    assert same(plain, under_audit)
    assert captured(tmp_path, truth, examples=3) == ""


def test_who_is_sent_another_model_than_the_first_is_not_captured(tmp_path):
    inner = Halving(**ALL)
    inner.favourite = 3
    federation(audited(inner, tmp_path))
    store = CaptureStore(RunFolder(tmp_path))
    assert len(store.users(1)) == USERS - 1
    assert [row["reason"] for row in store.rejected()] == ["the node was sent another model than the first one"] * 2


class Own(strategy.FedAvg):
    """With a loop and a state of its own, as in many an example of Flower's."""

    def __init__(self):
        super().__init__(**ALL)
        self.best, self.loops = None, 0

    def start(self, grid, initial_arrays, num_rounds=3, **more):
        self.loops += 1
        return super().start(grid, initial_arrays, num_rounds=num_rounds, timeout=60)

    def aggregate_train(self, server_round, replies):
        arrays, metrics = super().aggregate_train(server_round, replies)
        self.best = (server_round, self.loops)
        return arrays, metrics

    def publish(self):
        return self.best


def test_a_loop_of_the_apps_own_is_kept(tmp_path):
    plain, _ = federation(Own())
    plugin = audited(own := Own(), tmp_path)
    under_audit, truth = federation(plugin)
    assert same(plain, under_audit)
    captured(tmp_path, truth, examples=3)
    assert plugin.publish() == own.best == (ROUNDS, 1)
    assert "configure_train" not in vars(own)


def test_a_full_disk_costs_captures_and_not_the_training(tmp_path, monkeypatch, caplog):
    plain, _ = federation(strategy.FedAvg(**ALL))

    def full(*arguments):
        raise OSError(28, "No space left on device")

    plugin = audited(strategy.FedAvg(**ALL), tmp_path)
    monkeypatch.setattr("attacker.capture.store.write_atomically", full)
    under_audit, _ = federation(plugin)
    assert same(plain, under_audit)
    assert "could not be captured (OSError" in caplog.text


def test_what_cannot_be_audited_is_refused_before_it_starts(tmp_path):
    for inner, told in (
        (LegacyFedAvg(), "of Flower's legacy API"),
        (ServerApp(), "is no strategy"),
        (None, "is no strategy"),
    ):
        with pytest.raises(ConfigError, match=told):
            audited(inner, tmp_path / "run")
    for training, told in (
        ((1, 0, 0.0), "learning_rate 0.0 given"),
        ((1, 0, float("nan")), "learning_rate nan given"),
        ((0, 0, RATE), "epochs 0"),
        ((1, -1, RATE), "batch_size -1"),
    ):
        with pytest.raises(ConfigError, match=told):
            LocalTraining(*training)
    for scale, told in (({"mean": (0.5,)}, "three numbers each"), ({"std": (0.0, 1.0, 1.0)}, "std above 0")):
        with pytest.raises(ConfigError, match=told):
            ExternalModel.of(Net, 32, **scale)
    assert not (tmp_path / "run").exists()
    legacy = Server(client_manager=SimpleClientManager(), strategy=audited(strategy.FedAvg(), tmp_path / "run"))
    with pytest.raises(ConfigError, match="this ServerApp is of Flower's legacy API"):
        legacy.fit(1, None)
