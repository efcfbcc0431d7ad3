"""Attacks on several rounds of one user: which captures they see, and when a result of theirs is out of date."""

from dataclasses import dataclass

import pytest
import torch

from attacker.attack import Attack, Needs
from attacker.capture.store import Capture, CaptureStore
from attacker.observation import Reconstruction
from attacker.workers.jobs import Job, Workbench, is_done, recipe
from fl_sim.config import ConfigError, load
from fl_sim.runs import RunFolder, write_manifest


@dataclass(frozen=True)
class Settings:
    rounds: int = 3


def value(server_round, user):
    """The one number in the gradient of a capture."""
    return float(10 * server_round + user)


def capture(run, server_round, users, offset=0.0):
    """Finish a round in which `users` of 0 and 1 were accepted, the others rejected."""
    store = CaptureStore(run)
    now, then = ({"weight": torch.full((1,), float(number))} for number in (server_round, server_round + 1))
    store.save_model(server_round, now)
    captures = []
    for user in (0, 1):
        if user in users:
            update = {"weight": torch.tensor([value(server_round, user) + offset])}
            captures.append(Capture(user, user, "accepted", "", 30, 1.0, 4, 0.1, update))
        else:
            captures.append(Capture(user, user, "rejected", "holds NaN", 30, None, 4, 0.1))
    store.save_round(server_round, captures, "gradient", 0.1, then)
    store.wait()


@pytest.fixture
def run(tmp_path):
    """Four rounds; user 1 was rejected in the third."""
    folder = RunFolder(tmp_path)
    folder.config.write_text('[dataset]\nimage_size = 32\n[model]\nname = "mlp"\n[attacks]\n')
    write_manifest(folder, num_classes=2, image_size=32)
    for server_round, users in enumerate([(0, 1), (0, 1), (0,), (0, 1)], start=1):
        capture(folder, server_round, users)
    return folder


def probe(settings, attack=lambda *given: []):
    return Attack("a", "probe", settings, attack, Needs(rounds=settings.rounds))


def seen(run, settings, server_round, users=(0, 1)):
    """What an attack with these settings is handed: the observations of one job."""
    handed = []

    def attack(observations, attacker, settings, generators, progress):
        handed.extend(observations)
        return [Reconstruction(torch.zeros(1, 3, 8, 8), torch.ones(1), 0.0, 0.1) for _ in observations]

    bench = Workbench(run.root)
    bench.attacks = {"a": probe(settings, attack)}
    bench.perform(Job("a", server_round, tuple(users)))
    return handed


def history(observation):
    return [(one.server_round, float(one.gradient["weight"])) for one in observation.history]


def test_the_history_is_the_users_own_accepted_updates_latest_first(run):
    first, second = seen(run, Settings(rounds=3), 4)
    assert history(first) == [(3, value(3, 0)), (2, value(2, 0))]
    assert history(second) == [(2, value(2, 1)), (1, value(1, 1))]  # rejected in round 3
    assert [float(one.parameters["weight"]) for one in second.history] == [2, 1]  # each with the model of its round
    assert float(first.gradient["weight"]) == value(4, 0)
    assert all(one.user == 0 and one.history == () for one in first.history)


@pytest.mark.parametrize(("settings", "server_round"), [(Settings(), 1), (Settings(rounds=1), 4)])
def test_there_is_no_history_before_the_first_round_or_for_an_attack_on_one(run, settings, server_round):
    assert all(one.history == () for one in seen(run, settings, server_round))


def test_more_rounds_than_there_are_are_all_there_are(run):
    first, second = seen(run, Settings(rounds=99), 4)
    assert [[one.server_round for one in user.history] for user in (first, second)] == [[3, 2, 1], [2, 1]]


def test_a_result_is_out_of_date_once_an_earlier_capture_that_it_used_is_another(run):
    config, job = load(run.config), Job("a", 4, (0, 1))
    long, short = (probe(Settings(rounds)) for rounds in (3, 1))
    seen(run, long.settings, 4)
    assert is_done(run, config, long, job)
    with pytest.raises(ConfigError, match="rounds = 3, now it is 1"):
        is_done(run, config, short, job)
    before = {attack: recipe(run, config, attack, 4, 0) for attack in (long, short)}
    capture(run, 1, (0, 1), offset=0.5)  # beyond the three rounds of user 0
    assert recipe(run, config, long, 4, 0) == before[long]
    capture(run, 3, (0,), offset=0.5)
    assert recipe(run, config, short, 4, 0) == before[short]
    with pytest.raises(ConfigError, match="made from another capture"):
        is_done(run, config, long, job)


def test_sums_of_other_users_are_not_earlier_updates_of_the_same(tmp_path):
    store, weights = CaptureStore(RunFolder(tmp_path)), {"weight": torch.zeros(1)}
    for number, members in enumerate([(0, 1), (0, 2), (0, 1), (0, 1)], 1):
        store.save_model(number, weights)
        of_sum = Capture(0, 0, "accepted", "", 30, 1.0, 4, 0.1, weights, members=members)
        store.save_round(number, [of_sum], "gradient", 0.1, weights)
    store.wait()
    assert store.earlier_rounds(4, 0, 3) == [3, 1]


def test_a_damaged_capture_leaves_its_job_to_fail_alone(run):
    bench, job = Workbench(run.root), Job("a", 4, (0, 1))
    bench.attacks = {"a": probe(Settings(1), lambda seen, *rest: [made() for _ in seen])}
    bench.perform(job)
    path = run.capture(4, 1)
    path.write_bytes(path.read_bytes()[:-1])
    assert not is_done(run, bench.config, bench.attacks["a"], job)


def made():
    return Reconstruction(torch.zeros(1, 3, 8, 8), torch.ones(1), 0.0, 0.1)
