"""Config files of any content: a Config, or one sentence that says what is wrong."""

import string
from datetime import date
from pathlib import Path

import pytest
import tomli_w
from command_line import fl_sim, sentence
from hypothesis import example, given, settings
from hypothesis import strategies as st

from attacker import attacks
from clients import defenses
from fl_sim.config import Config, ConfigError, dump, load, read

keys = st.sampled_from([*Config.model_fields, "rounds", "users", "name", "root", "x"]) | st.text(min_size=1, max_size=5)
scalars = (
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(max_size=8) | st.dates() | st.datetimes()
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=6,
)


def known(section):
    """Tables with the keys of a section, and any values."""
    return st.dictionaries(st.sampled_from(list(section.model_fields)), values, max_size=3)


sections = {name: field.annotation for name, field in Config.model_fields.items()}
tables = st.fixed_dictionaries(
    {},
    optional={
        name: known(section) if hasattr(section, "model_fields") else values for name, section in sections.items()
    },
) | st.dictionaries(keys, values, max_size=4)


def told(call, *arguments):
    """What `call` makes of the arguments; None if it said in one readable line what is wrong."""
    try:
        return call(*arguments)
    except ConfigError as error:
        line = str(error)
    assert len(line.splitlines()) == 1, line
    assert len(line) < 700, line
    return None


@settings(max_examples=150, deadline=None)
@example({"defenses": [{"name": date(2000, 1, 1)}]})
@example({"attacks": {"dlg": {"steps": [{"at": float("nan")}]}}})
@given(tables)
def test_any_toml_is_a_config_or_a_sentence(tmp_path_factory, table):
    path = tmp_path_factory.mktemp("config") / "config.toml"
    try:
        path.write_text(tomli_w.dumps(table), encoding="utf-8")
    except (TypeError, ValueError, UnicodeEncodeError):
        return  # tomli_w has no words for it
    config = told(load, path)
    if config is not None:
        path.write_text(dump(config))
        assert load(path) == config


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60) | st.text(string.printable, max_size=60).map(str.encode))
def test_any_bytes_are_a_table_or_a_sentence(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("config") / "config.toml"
    path.write_bytes(content)
    told(read, path, [])


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=30) | st.builds("{}={}".format, keys, values))
def test_any_override_is_a_config_or_a_sentence(override):
    told(load, None, [override])


@pytest.mark.parametrize(
    "content",
    [
        b"a = " + b"[" * 3000 + b"]" * 3000,
        b"seed = " + b"9" * 5000,
        b"[dataset]\nroot = '~nobody-of-that-name/faces'",
        b'[dataset]\nroot = "a\\u0000b"',
        b"name = ''",
        b"name = '../../elsewhere'",
        b"name = '/elsewhere'",
        b'name = "a\\nb"',
        b"name = '" + b"x" * 300 + b"'",
        b"[attacks.'../../elsewhere']\nname = 'prior_only'",
        b"[dataset]\nusers = '[/red]'",
        b"[dataset.'[/]']",
        b"\xff\xfe",
        b"defenses = [{}]",
        b"defenses = [{name = 3}]",
        b"defenses = [{name = ':'}]",
        b"defenses = [{name = 'os:abort.x'}]",
        b"attacks = {a = {name = 3}}",
        b"attacks = {a = {name = '..x'}}",
        b"attacks = {a = {name = ''}}",
        b"attacks = {a = {name = 'os.path'}}",
        b"attacks = {prior_only = {steps = 1979-05-27}}",
        b"[model]\nname = ':'",
        b"[dataset]\nname = '..:x'",
    ],
)
def test_a_hostile_file_is_a_sentence_at_the_command_line_and_leaves_nothing(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "config.toml"
    path.write_bytes(content)
    code, text = fl_sim("run", "--config", path)
    assert code == 2
    sentence(text)
    assert list(tmp_path.iterdir()) == [path]


tables_of_parts = st.dictionaries(
    st.sampled_from(["name", "knowledge", "steps", "std", "max_norm", "keep", "prior", "x"]),
    values | st.sampled_from(["clip", "prior_only", "dlg", "a.b", "a:b", ".", ":", "..a", "", "a.", "none"]),
    max_size=3,
)


@settings(max_examples=150, deadline=None)
@example({"std": "clip", "x": "long" * 300})
@example({"name": "long" * 300, "knowledge": "long" * 300})
@given(tables_of_parts)
def test_any_table_is_an_attack_or_a_defense_or_a_sentence(table):
    told(attacks.load, "label", table)
    told(defenses.load_all, [table])


def test_what_nobody_foresaw_is_a_sentence_too_and_its_traceback_is_kept():
    code, text = fl_sim("faces", "-o", "dataset.name=os:getcwd")
    assert code == 70
    assert "Traceback" not in text
    said, _, rest = text.partition("not foreseen, see ")
    assert said.startswith("error: TypeError: ")
    kept = Path(rest.split()[0])
    assert "Traceback" in kept.read_text()
    kept.unlink()
