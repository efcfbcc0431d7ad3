"""A few users a round: who takes part follows from seed and round alone, and nobody else is asked."""

from collections import Counter

import pytest
from command_line import fl_sim, sentence
from tiny_faces import tiny_config

from attacker.capture.store import CaptureStore
from experiments.evaluate.ground_truth import captures_by_user
from experiments.plan.setup import prepare
from experiments.run.federation import run_federation
from fl_sim.config import ConfigError, dump
from fl_sim.federation.sampling import participants
from fl_sim.federation.shuffling import Shuffler, users_by_pseudonym
from fl_sim.runs import RunFolder


def few(count, **sections):
    return tiny_config(dataset={"users": 6}, federation={"users_per_round": count, "rounds": 3}, **sections)


def test_everybody_is_drawn_equally_often_and_nobody_twice():
    config, rounds = few(2), 3000
    drawn = Counter(user for number in range(1, rounds + 1) for user in participants(config, number))
    assert sum(drawn.values()) == 2 * rounds
    share, error = rounds / 3, (rounds * 2 / 9) ** 0.5
    assert all(abs(drawn[user] - share) < 4 * error for user in range(6))
    assert participants(few(0), 1) == participants(few(6), 2) == list(range(6))


@pytest.mark.parametrize("protocol", [{}, {"shuffle": True}, {"secure_aggregation": 3}], ids=str)
def test_who_takes_part_is_captured_and_nobody_else(protocol, tmp_path):
    config, run = few(3, protocol=protocol), RunFolder(tmp_path / "run")
    run_federation(prepare(config), run)
    store = CaptureStore(run)
    for number in (1, 2, 3):
        assert sorted(captures_by_user(config, store, number)) == participants(config, number)
    assert store.rejected() == []
    assert len({tuple(participants(config, number)) for number in (1, 2, 3)}) > 1


def test_more_than_there_are_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ConfigError, match=r"users_per_round is 7, but there are 6 users"):
        run_federation(prepare(few(7)), RunFolder(tmp_path / "run"))
    config = tmp_path / "few.toml"
    config.write_text(dump(few(7)))
    code, told = fl_sim("run", "--config", config, "--runs", tmp_path / "runs")
    assert code == 2
    assert sentence(told).startswith("federation.users_per_round is 7")
    assert not (tmp_path / "runs").exists()


def test_a_pseudonym_is_of_the_same_user_whoever_cannot_be_reached() -> None:
    """Who judges goes by all participants: one node that is away must not shift the others."""
    users, seed = [0, 2, 3, 5], 1
    behind = users_by_pseudonym(seed, 3, users)
    for away in users:
        nodes = {user: 100 + user for user in users if user != away}
        shuffler = Shuffler(None, nodes, users, seed, 3)  # type: ignore[arg-type]
        known = {shuffler._pseudonym[address]: node - 100 for address, node in shuffler._node.items()}
        assert known == {number: user for number, user in enumerate(behind) if user != away}
