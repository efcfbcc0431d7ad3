"""What is refused before the heavy imports is refused later too, and nothing else is."""

import ast
import dataclasses

import pytest

from attacker import attacks
from clients import defenses
from clients.datasets import DATASETS
from experiments.cli import early, parts
from experiments.plan.changes import Attacks, other_attacks
from fl_sim.config import Config, ConfigError, load
from fl_sim.config_keys import words
from fl_sim.models import MODELS


@pytest.mark.parametrize("name", attacks.available())
def test_every_key_that_an_attack_takes_passes(name: str) -> None:
    settings = attacks.load(name, {}).settings
    table = {key: value for key, value in dataclasses.asdict(settings).items() if value is not None}
    table |= {"name": name, "knowledge": "none"}
    for preset in [None, *attacks.presets(name)]:
        config = Config(attacks={"mine": table | ({} if preset is None else {"preset": preset})})
        early.check_names(config)
        assert attacks.load("mine", config.attacks["mine"]).name == name


@pytest.mark.parametrize("kind", ["attacks", "defenses"])
def test_a_key_that_none_takes_is_refused_early_and_late(kind: str) -> None:
    for name in parts.names(kind):  # type: ignore[arg-type]
        table = {"name": name, "no_such_key": 1}
        config = Config(attacks={"mine": table}) if kind == "attacks" else Config(defenses=[table])
        with pytest.raises(ConfigError, match="no_such_key"):
            early.check_names(config)
        with pytest.raises(ConfigError):
            attacks.load("mine", table) if kind == "attacks" else defenses.load_all([table])


def test_models_and_datasets_are_known_early_and_others_refused() -> None:
    assert parts.models() == list(MODELS)
    for name in [*MODELS, "mine:factory"]:
        early.check_names(load(None, [f"model.name={name}"]))
    for name in [*DATASETS, "mine:factory"]:
        early.check_names(load(None, [f"dataset.name={name}"]))
    for key in ("model", "dataset"):
        with pytest.raises(ConfigError, match=f"unknown {key} 'convnett'"):
            early.check_names(load(None, [f"{key}.name=convnett"]))


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        ({"a": {"steps": 1}}, {"a": {"steps": 2}}, "attacks.a.steps was 1, now it is 2"),
        ({"a": {}}, {"a": {"name": "dlg"}}, "attacks.a.name was 'a', now it is 'dlg'"),
        ({"a": {}}, {"a": {}, "b": {}}, "attacks.b was not there"),
        ({"a": {}, "b": {}}, {"a": {}}, "attacks.b was there, now it is not"),
        ({"a": {"knowledge": "parameters"}, "a-none": {"name": "a"}}, {"a": {}}, None),  # which a run adds by itself
    ],
)
def test_the_first_attack_that_differs_is_told(before: Attacks, now: Attacks, told: str | None) -> None:
    assert other_attacks(before, now) == told


def test_the_paper_s_recipe_by_its_key_on_the_command_line() -> None:
    early.check_names(load(None, ["attacks.user_diffusion.preset=paper"]))


@pytest.mark.parametrize(
    ("annotation", "said"),
    [
        ("int | None", None),
        ("typing.Optional[int]", "typing.Optional[int]"),
        ('"Tensor | int"', None),
        ("'a' | None", "'a' | None"),
        ("Literal['a']['b']", None),
        ("list[1 + 2]", None),
        ("Field(no_such=1)", None),
        ("Path(1)", None),
    ],
)
def test_any_annotation_of_a_plug_in_is_read_or_left_as_text(annotation: str, said: str | None) -> None:
    tree = ast.parse(f"x: {annotation}")
    (field,) = tree.body
    assert isinstance(field, ast.AnnAssign)
    kind = parts._type(field.annotation, tree, 2)
    assert words(kind)
    if said is not None:
        assert kind == said
