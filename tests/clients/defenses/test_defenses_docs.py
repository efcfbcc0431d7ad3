"""docs/defenses.md does what it says: its example runs, its tables name every defense and setting."""

import dataclasses
import importlib
import re
import sys
import tomllib

import pytest
from tiny_faces import tiny_config

from attacker.capture.store import CaptureStore
from clients.defenses import load_all, names
from experiments.plan.setup import prepare
from experiments.run.federation import run_federation
from fl_sim.runs import RunFolder


@pytest.fixture
def page(repository):
    return (repository / "docs" / "defenses.md").read_text(encoding="utf-8")


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def test_the_worked_example_is_one_file_and_one_line(page, tmp_path, monkeypatch):
    code, check = blocks(page, "python")
    (tmp_path / "top_half.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    tables = tomllib.loads(blocks(page, "toml")[1])["defenses"]
    config = tiny_config(dataset={"users": 2}, federation={"rounds": 1}, defenses=tables)
    try:
        run_federation(prepare(config), RunFolder(tmp_path / "run"))
        scope = {}
        exec(check, scope)
        scope["test_top_half"]()
    finally:
        sys.modules.pop("top_half", None)
    store = CaptureStore(RunFolder(tmp_path / "run"))
    assert store.users(1) == [0, 1]
    for user in (0, 1):
        for value in store.observation(1, user).gradient.values():
            assert float(value.abs().max()) <= 0.01
            assert int((value == 0).sum()) <= value.numel() // 2


def test_the_example_of_a_list_of_defenses_loads(page):
    loaded = load_all(tomllib.loads(blocks(page, "toml")[0])["defenses"])
    assert [one.acts_on for one in loaded] == ["data", "update", "update"]
    assert loaded[2].settings.std == 0.5  # of the clip norm 1.0


def test_the_tables_name_every_defense_and_all_its_settings(page):
    rows = dict(re.findall(r"^\| `(\w+)` (\|.*)$", page, re.MULTILINE))
    assert set(rows) == set(names())
    for name, row in rows.items():
        fields = dataclasses.fields(importlib.import_module(f"clients.defenses.{name}").Settings)
        for field in fields:
            assert f"`{field.name}" in row, (name, field.name)
            if field.default not in (dataclasses.MISSING, None) and field.name != "relative":
                shown = str(field.default).lower() if isinstance(field.default, bool) else f"{field.default:g}"
                assert f"`{field.name} = {shown}`" in row, (name, field.name)
