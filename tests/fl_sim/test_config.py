from dataclasses import dataclass
from typing import Annotated, Literal

import pytest
from pydantic import Field

from fl_sim.config import Config, ConfigError, dump, load, parse


def test_what_is_dumped_loads_to_the_same_config(tmp_path):
    path = tmp_path / "config.toml"
    config = load(None, ["dataset.users=3", "attacks.mine.steps=7", "dataset.root=somewhere", "federation.rounds=9"])
    path.write_text(dump(config))
    assert load(path) == config


def test_the_defaults_are_the_shipped_quickstart_but_for_its_frames(repository):
    assert load(repository / "experiments/configs/quickstart.toml") == load(None, ["workers.frames=6"])
    assert Config().workers.frames == 0


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("dataset.user=3", "unknown config key 'dataset.user'; did you mean 'dataset.users'?"),
        ("users=3", "unknown config key 'users'; did you mean 'dataset.users'?"),
        ("rounds=3", "unknown config key 'rounds'; did you mean 'federation.rounds'?"),
        ("federation.user=3", "did you mean 'dataset.users'?"),
        ("epochs=3", "did you mean 'federation.local_epochs'?"),
        ("xyz=3", "unknown config key 'xyz'; allowed: name, seed, dataset"),
        ("dataset.xyz=3", "dataset takes name, root"),
        ("modle.name=mlp", "unknown config key 'modle'; did you mean 'model'?"),
        ("seed=-1", "config key 'seed' is -1; give a whole number, 0 or more"),
        ("dataset.image_size=48", "config key 'dataset.image_size' is 48; give 32, 64 or 128"),
        ("federation.rounds=many", "config key 'federation.rounds' is 'many'; give a whole number, 1 or more"),
        ("federation.rounds=2.5", "is 2.5; give a whole number"),
        ("federation.rounds=true", "config key 'federation.rounds' is true or false; give a whole number, 1 or more"),
        ("workers.attack_rounds=[2, true]", "key 'workers.attack_rounds.1' is true or false; give a whole number, 1"),
        ("federation.learning_rate=true", "is true or false; give a number, above 0"),
        ("protocol.delta=2", "is 2; give a number, above 0, below 1"),
        ("protocol.noise_multiplier=inf", "give a number, 0 or more, finite"),
        ("model.small_stem=perhaps", "give true or false"),
        ("dataset=3", "config key 'dataset' is 3; give a table with keys such as name"),
        ("defenses=3", "give a list, each a table"),
        ("defenses=[3]", "config key 'defenses.0' is 3; give a table"),
        ("attacks.a=3", "config key 'attacks.a' is 3; give a table"),
        ("workers.attack_rounds=[0]", "config key 'workers.attack_rounds.0' is 0; give a whole number, 1 or more"),
        ("dataset.root=3", "is 3; give a path"),
        ("dataset", "not of the form key=value"),
        ("seed.x=1\nseed=2", "config key 'seed"),
    ],
)
def test_a_mistake_is_told_in_one_sentence(override, told):
    with pytest.raises(ConfigError) as error:
        load(None, [override])
    assert told in str(error.value)
    assert "\n" not in str(error.value).strip()


def test_a_file_that_is_missing_or_no_toml_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere.toml cannot be read"):
        load(tmp_path / "nowhere.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("a = = 1")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load(broken)


@dataclass(frozen=True)
class Settings:
    steps: int = 100
    rate: float = 0.1


def test_a_plain_dataclass_of_settings_is_checked_as_strictly():
    assert parse(Settings, {"steps": 5}) == Settings(5)
    with pytest.raises(ConfigError, match=r"'attacks.mine.step'; did you mean 'attacks.mine.steps'"):
        parse(Settings, {"step": 5}, "attacks.mine")
    with pytest.raises(ConfigError, match=r"attacks.mine.rate"):
        parse(Settings, {"rate": "fast"}, "attacks.mine")


def test_an_override_of_an_attack_adds_to_those_there_are(tmp_path):
    everything = Config().attacks
    assert load(None, ["attacks.prior_only.steps=3"]).attacks == {**everything, "prior_only": {"steps": 3}}
    assert load(None, ["attacks.long={name = 'dlg'}"]).attacks == {**everything, "long": {"name": "dlg"}}
    assert load(None, ["attacks={a = {name = 'dlg'}}", "attacks.a.steps=3"]).attacks == {
        "a": {"name": "dlg", "steps": 3}
    }
    assert Config().attacks == everything
    path = tmp_path / "mine.toml"
    path.write_text("[attacks.dlg]\nsteps = 4\n")
    assert load(path, ["attacks.idlg.steps=3"]).attacks == {"dlg": {"steps": 4}, "idlg": {"steps": 3}}
    path.write_text("[dataset]\nusers = 4\n")
    assert load(path, ["attacks.prior_only.steps=3"]).attacks == {**everything, "prior_only": {"steps": 3}}


@dataclass(frozen=True)
class Bounded:
    rate: Annotated[float, Field(ge=0, le=1)]
    kind: Literal["a", "b"] = "a"

    def __post_init__(self):
        if self.rate == 0.5:
            raise ValueError("rate is 0.5; give another")


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({}, "config key 'defenses.mine.rate' is missing; give a number from 0 to 1"),
        ({"rate": 2}, "config key 'defenses.mine.rate' is 2; give a number from 0 to 1"),
        ({"rate": 0.5}, "defenses.mine: rate is 0.5; give another"),
        ({"rate": 1, "kind": "c"}, "config key 'defenses.mine.kind' is 'c'; give 'a' or 'b'"),
        ({"rat": 2}, "unknown config key 'defenses.mine.rat'; did you mean 'defenses.mine.rate'?"),
        ({"rate": 2, "kind": "c"}, "give a number from 0 to 1 (and 1 more mistakes)"),
    ],
)
def test_settings_say_what_they_take(table, told):
    with pytest.raises(ConfigError) as error:
        parse(Bounded, table, "defenses.mine")
    assert told in str(error.value)


def test_every_key_is_documented():
    def undocumented(section, where=""):
        for name, field in section.model_fields.items():
            if hasattr(field.annotation, "model_fields"):
                yield from undocumented(field.annotation, f"{where}{name}.")
            elif not field.description:
                yield where + name

    assert list(undocumented(Config)) == []
