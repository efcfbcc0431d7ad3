"""A defense is attacked by whoever knows it, unless nobody can; then the run says so."""

import importlib
import os
import sys
from pathlib import Path

import pytest
import torch
from dp_accounting import get_epsilon_gaussian
from tiny_faces import tiny_config

from attacker.capture.store import read_attack_table
from attacker.inversion.defense_aware import adapt
from attacker.workers.jobs import Job, Workbench
from clients.defenses import load_all, names
from clients.testing import check_defense
from experiments.plan.attackers import declared, known_to_nobody, not_adapted_to, planned, sources, warnings
from experiments.plan.setup import prepare
from experiments.run import pipeline
from fl_sim.config import Config, ConfigError, dump, parse
from fl_sim.config import load as load_config
from fl_sim.runs import RunFolder, read_manifest
from fl_sim.traits import Traits

CLIP, NOISE = {"name": "clip", "max_norm": 1.0}, {"name": "gaussian_noise", "std": 0.1}
MIXUP = {"name": "mixup", "alpha": 1.0}
THIRD = '''"""Whole blocks of four entries are withheld, and the rest is clipped and gets noise."""

import torch

from fl_sim.traits import Traits


class Blocks:
    def __init__(self, bound, std):
        self.bound, self.std = bound, std
        self.traits = Traits(max_norm=bound, scales=True, keeps_norm=True, noise="gaussian", noise_size=std)

    def __call__(self, update, generator):
        size = torch.cat([value.flatten() for value in update.values()]).double().norm()
        factor = min(1.0, self.bound / float(size)) if size else 1.0
        return {
            name: value * factor + self.std * torch.randn(value.shape, generator=generator, dtype=value.dtype)
            for name, value in update.items()
        }


def silent(bound, std):
    made = Blocks(bound, std)
    return lambda update, generator: made(update, generator)


def masking(keep):
    def defend(update, generator):
        return {
            name: value * (torch.rand(value.shape, generator=generator) < keep) for name, value in update.items()
        }

    defend.traits = Traits(keeps_norm=True, zeroes="any")
    return defend


def wrong(what):
    defend = masking(0.5)
    defend.traits = what
    return defend
'''


@pytest.fixture
def third(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A module of somebody else's, one file: `third_defense`."""
    (tmp_path / "third_defense.py").write_text(THIRD)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield "third_defense"
    sys.modules.pop("third_defense", None)


def config(*defenses, **attacks) -> Config:
    return parse(Config, {"defenses": list(defenses), **({"attacks": attacks} if attacks else {})})


def warned(config):
    """The sentences about defenses of a run that nobody attacks who knows them."""
    setup = prepare(config)
    return warnings(setup.attacks, setup.defenses)


def knowing(config: Config) -> dict[str, str | None]:
    return {label: table.get("knowledge") for label, table in planned(config).attacks.items()}


def test_without_defenses_every_attack_runs_once_and_its_table_is_left_alone():
    assert planned(config()) == config()
    assert knowing(config(a={"name": "dlg", "knowledge": ["parameters", "none"]})) == {"a": None}


def test_where_users_defend_themselves_the_strongest_has_the_label_and_one_knows_nothing():
    assert knowing(config(CLIP, NOISE)) == {
        "user_diffusion": "parameters", "user_diffusion-none": "none",
        "inverting_gradients": "parameters", "inverting_gradients-none": "none", "prior_only": None,
    }  # fmt: skip
    other = planned(config(CLIP, long={"name": "user_diffusion", "steps": 7})).attacks
    assert other["long-none"] == {"name": "user_diffusion", "steps": 7, "knowledge": "none"}
    assert sources(config(CLIP)) == {
        "user_diffusion": "user_diffusion", "user_diffusion-none": "user_diffusion",
        "inverting_gradients": "inverting_gradients", "inverting_gradients-none": "inverting_gradients",
        "prior_only": "prior_only",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("none", {"dlg": "none"}),
        (["mechanism"], {"dlg": "mechanism"}),
        (["none", "mechanism", "parameters"], {"dlg": "parameters", "dlg-mechanism": "mechanism", "dlg-none": "none"}),
        (["none", "mechanism"], {"dlg": "mechanism", "dlg-none": "none"}),
    ],
)
def test_a_table_may_say_who_attacks(given, found):
    assert knowing(config(CLIP, dlg={"knowledge": given})) == found


def test_what_is_planned_stays_and_is_what_the_run_holds(tmp_path):
    once = planned(config(CLIP, NOISE))
    assert planned(once) == once
    (tmp_path / "config.toml").write_text(dump(once))
    assert planned(load_config(tmp_path / "config.toml")) == once


def test_two_attackers_of_one_label_are_refused():
    with pytest.raises(
        ConfigError, match=r"'a' is also run by one who knows less, as 'a-none', and another attack has"
    ):
        planned(config(CLIP, **{"a": {"name": "dlg"}, "a-none": {"name": "idlg"}}))


def test_nobody_runs_twice_to_do_the_same():
    """No attack has a form against mixup, and `imprint` has none against anything."""
    assert knowing(config(MIXUP, user_diffusion={})) == {"user_diffusion": None}
    assert knowing(config(CLIP, imprint={}, prior_only={})) == {"imprint": None, "prior_only": None}
    assert knowing(config({"name": "clip", "max_norm": float("inf")}, user_diffusion={})) == {"user_diffusion": None}


def test_a_run_says_which_defenses_an_attack_has_no_form_against():
    mixed = planned(config(MIXUP, CLIP, NOISE, a={"name": "dlg"}, imprint={}, prior_only={}))
    unadapted = not_adapted_to(prepare(mixed).attacks, prepare(mixed).defenses)
    assert unadapted == {
        "a": ["mixup"], "a-none": ["mixup", "clip", "gaussian_noise"], "imprint": ["mixup", "clip", "gaussian_noise"],
    }  # fmt: skip
    assert known_to_nobody(unadapted) == ["mixup"]
    assert warned(mixed) == ["Not attacked by anyone who knows this defense: no attack has a form against mixup."]
    blind = planned(config(CLIP, a={"name": "dlg", "knowledge": "none"}))
    assert "no attack here adapts to clip" in warned(blind)[0]
    assert warned(config({"name": "batch_size", "photos": 3})) == []  # the server is told of it
    assert warned(config()) == []
    assert known_to_nobody({}) == []


def test_flowers_own_mod_which_declares_nothing_is_attacked_by_who_knows_it():
    """Its bound and noise are of weights: that there is noise is known, its size is read off the update."""
    mod = {"name": "flwr.clientapp.mod:LocalDpMod", "clipping_norm": 0.5, "sensitivity": 1.0, "epsilon": 0.5,
           "delta": 1e-5}  # fmt: skip
    defended = planned(parse(Config, {"defenses": [mod], "federation": {"update": "weights"}}))
    assert knowing(defended)["user_diffusion"] == "parameters"
    assert warned(defended) == []
    noise = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    assert adapt({"w": 3 * noise}, [load_all([mod])[0].traits]).noise == pytest.approx([9.0], rel=0.1)


def test_steps_are_known_to_who_simulates_them():
    steps = {"name": "local_steps", "epochs": 3}
    assert "simulates the steps of local_steps" in warned(config(steps))[0]
    assert warned(config(steps, user_diffusion={"simulated_steps": 8})) == []


SOME = {
    "clip": {"max_norm": 1.0}, "gaussian_noise": {"std": 1.0}, "laplace_noise": {"scale": 1.0},
    "local_dp": {"epsilon": 1.0, "delta": 1e-5, "max_norm": 1.0}, "prune": {"keep": 0.5},
    "random_sparsify": {"keep": 0.5}, "quantize": {"bits": 4}, "dropout_update": {"rate": 0.5},
    "representation_perturbation": {"prune": 0.5}, "mixup": {"alpha": 1.0}, "batch_size": {"photos": 2},
    "local_steps": {"epochs": 2},
}  # fmt: skip


@pytest.mark.parametrize("name", names())
def test_every_defense_of_ours_declares_what_it_is(name):
    traits = load_all([{"name": name, **SOME.get(name, {})}])[0].traits
    assert traits.tells or traits.hides_nothing or name in ("mixup", "augment")


def test_a_third_partys_defense_of_one_file_gets_its_epsilon_and_an_attacker_who_knows_it(third):
    blocks = {"name": f"{third}:Blocks", "bound": 0.5, "std": 2.0}
    defended = tiny_config(defenses=[blocks], federation={"rounds": 1}, attacks={"user_diffusion": {}})
    assert prepare(defended).accountant.epsilon() == get_epsilon_gaussian(2.0 / (2 * 0.5), 1e-5)
    assert prepare(defended).accountant.guarantee("server").why == f"{third}:Blocks"
    assert knowing(defended) == {"user_diffusion": "parameters", "user_diffusion-none": "none"}
    assert warned(defended) == []
    check_defense(blocks)
    update = {"w": torch.zeros(1000)}
    assert adapt(update, [load_all([blocks])[0].traits]).noise == pytest.approx([4.0])
    mask = {"name": f"{third}:masking", "keep": 0.5}
    masking = load_all([mask])[0]
    kept = adapt(masking.defend({"w": torch.ones(100)}, torch.Generator().manual_seed(0)), [masking.traits]).kept
    assert 30 < int(kept.sum()) < 70
    masked = tiny_config(defenses=[{**CLIP, "max_norm": 0.5}, mask, {**NOISE, "std": 2.0}], federation={"rounds": 1})
    same = prepare(masked).accountant.epsilon() == prepare(defended).accountant.epsilon()
    assert same  # it keeps the bound of a clip before it


def test_one_that_declares_nothing_has_neither_and_the_run_says_so(third):
    silent = {"name": f"{third}:silent", "bound": 0.5, "std": 2.0}
    defended = tiny_config(defenses=[silent], attacks={"user_diffusion": {}})
    assert prepare(defended).accountant.epsilon() is None
    assert declared(prepare(defended).defenses) == [None]
    assert knowing(defended) == {"user_diffusion": None}
    assert warned(defended) == [
        "Not attacked by anyone who knows this defense: third_defense:silent declares nothing; give it traits "
        "(docs/defenses.md)."
    ]


def test_traits_that_are_none_are_a_sentence(third):
    with pytest.raises(ConfigError, match=r"declares traits of type str; give fl_sim.traits.Traits"):
        load_all([{"name": f"{third}:wrong", "what": "noise"}])
    with pytest.raises(ValueError, match="max_norm is -1"):
        Traits(max_norm=-1)


@pytest.mark.parametrize(
    ("traits", "breach"),
    [
        (Traits(), "sets entries to zero"),
        (Traits(zeroes="any", max_norm=0.1), "declared: at most 0.1"),
        (Traits(zeroes="any", signs=True), "declared: signs"),
        (Traits(zeroes="any", noise="gaussian", noise_size=0.1), "declared: 0.01"),
    ],
)
def test_what_is_declared_and_not_so_is_found(third, traits, breach):
    with pytest.raises(AssertionError, match=breach):
        check_defense({"name": f"{third}:wrong", "what": traits})


@pytest.fixture
def importing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attack workers find what this process finds."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))


@pytest.mark.slow
@pytest.mark.usefixtures("importing")
def test_a_run_is_attacked_by_both_and_holds_what_they_knew(tmp_path, third):
    """From the run folder alone: whoever knows is told what the defense declares, whoever does not is told nothing."""
    blocks = {"name": f"{third}:Blocks", "bound": 0.5, "std": 0.1}
    told: list[str] = []
    defended = tiny_config(
        defenses=[MIXUP, blocks], federation={"rounds": 1}, attacks={"a": {"name": "dlg", "steps": 1}},
        workers={"backend": "inprocess"}, leakage={"attributes": "none", "gallery_size": 2},
    )  # fmt: skip
    run = RunFolder(tmp_path / "run")
    outcome = pipeline.run(defended, run, lambda *given: None, told.append)
    assert outcome.problems == []
    assert "Not attacked by anyone who knows this defense: no attack has a form against mixup." in told
    assert pipeline.finished(defended, run)
    assert read_manifest(run)["threat_model"]["not_adapted_to"] == {
        "a": ["mixup"], "a-none": ["mixup", f"{third}:Blocks"],
    }  # fmt: skip
    bench = Workbench(run.root)
    assert [one.knowledge for one in bench.attacks.values()] == ["parameters", "none"]
    knows, ignores = (bench.observations(Job(label, 1, (0,))) for label in ("a", "a-none"))
    assert knows[0].defenses == (Traits(), load_all([blocks])[0].traits)
    assert ignores[0].defenses == ()
    table = outcome.table[outcome.table["arm"] == "attack"]
    assert dict(zip(table["attack"], table["knowledge"], strict=True)) == {"a": "parameters", "a-none": "none"}
    recipe = read_attack_table(run, "a", 1, 0)
    assert recipe is not None
    assert recipe["defenses"] == [MIXUP, blocks]


@pytest.mark.slow
@pytest.mark.usefixtures("importing")
def test_captures_that_are_attacked_again_are_stated_anew(tmp_path):
    defended = tiny_config(
        defenses=[CLIP], federation={"rounds": 1}, attacks={"a": {"name": "dlg", "steps": 1, "knowledge": "none"}},
        workers={"backend": "inprocess"}, leakage={"attributes": "none", "gallery_size": 2},
    )  # fmt: skip
    run = RunFolder(tmp_path / "run")
    assert pipeline.run(defended, run, lambda *given: None, lambda sentence: None).problems == []
    before = read_manifest(run)
    assert before["threat_model"]["not_adapted_to"] == {"a": ["clip"]}
    more = load_config(run.config, ["attacks.b.name=dlg", "attacks.b.steps=1"])
    assert pipeline.attack(run, more, False, lambda *given: None, lambda sentence: None).problems == []
    after = read_manifest(run)
    assert after["threat_model"].pop("not_adapted_to") == {"a": ["clip"], "b": [], "b-none": ["clip"]}
    before["threat_model"].pop("not_adapted_to")
    assert any("Not attacked by anyone who knows this defense" in note for note in before.pop("notes"))
    assert not any("Not attacked" in note for note in after.pop("notes"))  # b knows it
    assert after == before
