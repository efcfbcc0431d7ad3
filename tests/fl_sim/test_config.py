from dataclasses import dataclass

import pytest

from fl_sim.config import Config, ConfigError, dump, load, parse


def test_what_is_dumped_loads_to_the_same_config(tmp_path):
    path = tmp_path / "config.toml"
    config = load(None, ["dataset.users=3", "attacks.mine.steps=7", "dataset.root=somewhere", "federation.rounds=9"])
    path.write_text(dump(config))
    assert load(path) == config


def test_the_defaults_are_the_shipped_quickstart(repository):
    assert load(repository / "experiments/configs/quickstart.toml") == Config()


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("dataset.user=3", "unknown config key 'dataset.user'; did you mean 'users'?"),
        ("modle.name=mlp", "unknown config key 'modle'; did you mean 'model'?"),
        ("seed=-1", "config key 'seed'"),
        ("dataset.image_size=48", "32, 64 or 128"),
        ("federation.rounds=many", "config key 'federation.rounds'"),
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
    with pytest.raises(ConfigError, match=r"'attacks.mine.step'; did you mean 'steps'"):
        parse(Settings, {"step": 5}, "attacks.mine")
    with pytest.raises(ConfigError, match=r"attacks.mine.rate"):
        parse(Settings, {"rate": "fast"}, "attacks.mine")


def test_every_key_is_documented():
    def undocumented(section, where=""):
        for name, field in section.model_fields.items():
            if hasattr(field.annotation, "model_fields"):
                yield from undocumented(field.annotation, f"{where}{name}.")
            elif not field.description:
                yield where + name

    assert list(undocumented(Config)) == []
