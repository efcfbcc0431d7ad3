"""Attacks are found by name, declare what they need, and every mistake is a sentence."""

from pathlib import Path
from typing import Any

import pytest

from attacker.attack import Needs
from attacker.attacks import available, load, prior_only
from fl_sim.config import ConfigError


@pytest.mark.parametrize(
    ("name", "preset", "said"),
    [
        ("user_diffusion", "papr", r"attacks\.a\.preset is 'papr'; choose one of paper"),
        ("user_diffusion", ["paper"], "choose one of paper"),
        ("user_diffusion", "../../x", "choose one of paper"),
        ("dlg", "paper", "dlg has none; leave it out"),
    ],
)
def test_an_unknown_preset_is_a_sentence(name: str, preset: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load("a", {"name": name, "preset": preset})


def test_an_attack_says_what_it_needs() -> None:
    assert load("a", {"name": "dlg"}).needs == Needs(second_derivatives=True)
    assert load("a", {"name": "prior_only", "prior": "mine"}).needs == Needs(prior="mine")
    assert load("imprint", {}).needs == Needs()
    table = {"rounds": 3, "simulated_steps": 2, "eigenface_share": 0.0, "draws": 0}
    assert load("user_diffusion", table).needs == Needs("synthetic64", False, 3, 2, True)
    assert load("user_diffusion", {}).needs.public_faces
    assert load("user_diffusion", {"eigenface_share": 0.0}).needs.public_faces  # what it draws depends on them


THIRD_PARTY = """
from dataclasses import dataclass
from attacker.attack import Needs

@dataclass(frozen=True)
class Settings:
    generator: str = "mine"

def needs(settings):
    return {said}

def attack(observations, attacker, settings, generators, progress):
    return []
"""


@pytest.mark.parametrize("said", ["Needs(prior=settings.generator, rounds=2)", "settings.generator"])
def test_an_attack_of_somebody_else_says_what_it_needs_too(said: str, tmp_path: Path, monkeypatch: Any) -> None:
    name = f"somebody_{len(said)}.attack"
    folder = tmp_path / name.partition(".")[0]
    folder.mkdir()
    (folder / "attack.py").write_text(THIRD_PARTY.format(said=said))
    monkeypatch.syspath_prepend(tmp_path)
    if said.startswith("Needs"):
        assert load("a", {"name": name}).needs == Needs("mine", rounds=2)
    else:
        with pytest.raises(ConfigError, match=r"gives 'mine'; return an attacker\.attack\.Needs"):
            load("a", {"name": name})


def test_attacks_are_found_by_name_and_mistakes_named() -> None:
    assert {"inverting_gradients", "prior_only", "user_diffusion"} <= set(available())
    assert load("mine", {"name": "prior_only", "steps": 3}).settings == prior_only.Settings(steps=3)
    with pytest.raises(ConfigError, match=r"did you mean 'attacks.*steps'"):
        load("user_diffusion", {"stps": 3})
    with pytest.raises(ConfigError, match="unknown attack 'user_difusion'"):
        load("user_difusion", {})
    with pytest.raises(ConfigError, match="cannot be imported"):
        load("mine", {"name": "no.such_module"})
    with pytest.raises(ConfigError, match="has no 'Settings'"):
        load("mine", {"name": "os.path"})
    with pytest.raises(ConfigError, match=r"attacks.user_diffusion.steps"):
        load("user_diffusion", {"steps": 0})
