"""Whose update a capture holds, what the run's threat model says of it, and what cannot be asked behind pseudonyms."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_faces import tiny_config

from experiments.evaluate.ground_truth import captures_by_user
from experiments.plan.setup import prepare
from experiments.run import pipeline
from experiments.statistics.summary import privacy_lines
from fl_sim.config import ConfigError
from fl_sim.federation.secure_aggregation import groups


class Store:
    """A store of one round: the users by capture."""

    def __init__(self, held):
        self.held = held

    def members(self, server_round):
        return self.held


@given(st.integers(2, 20), st.integers(2, 6))
def test_every_member_of_a_sum_finds_it_and_those_who_share_it(count, size):
    together = groups(range(count), size)
    captures = captures_by_user(tiny_config(), Store({group[0]: group for group in together}), 1)
    assert sorted(captures) == list(range(count))
    for group in together:
        assert all(captures[user] == group[0] for user in group)


@given(st.integers(1, 20), st.data())
def test_behind_pseudonyms_everybody_whose_update_came_has_one(count, data):
    came = data.draw(st.sets(st.integers(0, count - 1)))
    config = tiny_config(protocol={"shuffle": True}, dataset={"users": count})
    captures = captures_by_user(config, Store({pseudonym: [pseudonym] for pseudonym in came}), 2)
    assert sorted(captures.values()) == sorted(came)
    assert set(captures) <= set(range(count))


def test_rounds_cannot_be_fused_behind_pseudonyms():
    sections = {"attacks": {"inverting_gradients": {"rounds": 2}}, "leakage": {"attributes": "none", "gallery_size": 4}}
    with pytest.raises(ConfigError, match=r"fuses 2 rounds of a user.*unset protocol.shuffle"):
        pipeline.preflight(prepare(tiny_config(protocol={"shuffle": True}, **sections)), print)


def test_the_threat_model_states_the_protocol():
    plain = pipeline.threat_model(prepare(tiny_config()))
    assert (plain["users_behind_an_update"], plain["linkable_over_rounds"]) == (1, True)
    assert privacy_lines(plain["privacy"]) == []
    summed = pipeline.threat_model(prepare(tiny_config(protocol={"secure_aggregation": 3})))
    assert summed["users_behind_an_update"] == 3
    private = {"differential_privacy": "server_fixed", "noise_multiplier": 2.0}
    stated = pipeline.threat_model(
        prepare(tiny_config(protocol=private | {"shuffle": True}, federation={"update": "weights"}))
    )
    assert not stated["linkable_over_rounds"]
    assert stated["differential_privacy"] == "server_fixed"
    server, reader = privacy_lines(stated["privacy"])
    assert "against the server: no guarantee" in server
    assert "against readers of the model: epsilon 4.38 a round" in reader


def test_noise_without_an_epsilon_is_told_before_the_run():
    notes: list[str] = []
    config = tiny_config(defenses=[{"name": "gaussian_noise", "std": 1.0}], workers={"backend": "none"})
    pipeline.preflight(prepare(config), notes.append)
    assert any("nothing bounds what one user can change" in note for note in notes)


def test_what_flowers_local_dp_does_not_keep_is_told_before_the_run_after_it_and_in_the_threat_model():
    mod = {"name": "flwr.clientapp.mod:LocalDpMod", "clipping_norm": 1.0, "sensitivity": 2.0, "delta": 1e-5}
    config = tiny_config(
        defenses=[mod | {"epsilon": 20.0}], federation={"update": "weights"}, workers={"backend": "none"}
    )
    notes: list[str] = []
    pipeline.preflight(prepare(config), notes.append)
    told = privacy_lines(pipeline.threat_model(prepare(config))["privacy"])
    for lines in (notes, told):
        assert any("asked for epsilon 20 a reply and gives 25.4" in line for line in lines)
    assert told[0].startswith("privacy against the server: epsilon 25.4 a round")
