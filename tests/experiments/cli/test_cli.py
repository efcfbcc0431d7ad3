import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version

import pytest

from attacker import attacks
from attacker.priors.prior import SHIPPED
from clients import defenses
from experiments.cli import app
from fl_sim.config import Config, ConfigError, dump, load
from fl_sim.runs import RunFolder

HEAVY = {"pandas", "torch", "flwr", "ray", "diffusers", "cryptography"}


@pytest.fixture
def fl_sim(monkeypatch, capsys):
    """Run the command line in this process: (exit code, stdout, stderr)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["fl-sim", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            app.main()
        captured = capsys.readouterr()
        return end.value.code or 0, captured.out, captured.err

    return run


def test_help_waits_for_nothing_heavy():
    code = f"import sys, experiments.cli.app; print({HEAVY} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


@pytest.mark.parametrize(
    "command",
    [
        "run",
        "attack",
        "report",
        "watch",
        "sweep",
        "frontier",
        "audit",
        "invert",
        "train-prior",
        "train-identity",
        "train-model",
        "faces",
        "config",
        "doctor",
    ],
)
def test_every_command_explains_itself(fl_sim, command):
    code, out, _ = fl_sim(command, "--help")
    assert code == 0
    assert "Usage" in out


def test_arguments_say_what_they_are(fl_sim):
    """Some pairs of typer and click drop that."""
    assert "a shipped study" in " ".join(fl_sim("sweep", "--help")[1].split())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["run", "-o", "dataset.user=3"], "did you mean 'dataset.users'?"),
        (["run", "-o", "rounds=3"], "did you mean 'federation.rounds'?"),
        (["run", "--enginee", "ray"], "fl-sim run --help"),
        (["config", "users"], "did you mean 'dataset.users'?"),
        (["config", "attacks.long"], "attacks takes cocktail_party"),
        (["train-prior", "--out", "prior", "--channels", "24,50"], "multiples of 8"),
        (["train-prior", "--out", "prior", "--channels", ",".join(["32"] * 8)], "as many levels as 64 px"),
        (["run", "-o", "dataset.name=sinthetic"], "did you mean 'synthetic'?"),
        (["run", "-o", "dataset.name=folder"], "dataset.root"),
        (["run", "-o", "model.name=convnett"], "unknown model 'convnett'"),
        (["run", "-o", "defenses=[{name='clipp'}]"], "did you mean 'clip'?"),
        (["run", "-o", "attacks.user_difusion.steps=3"], "did you mean 'user_diffusion'?"),
        (["run", "-o", "attacks.mine.steps=3"], "unknown attack 'mine'; choose one of cocktail_party"),
        (["run", "-o", "defenses=[{name='clip', max_nrm=3}]"], "did you mean 'defenses.clip.max_norm'?"),
        (["run", "-o", "attacks.user_diffusion.step=3"], "did you mean 'attacks.user_diffusion.steps'?"),
        (["run", "-o", "attacks.user_diffusion.prior=./nowhere"], "neither a folder nor a hub name"),
        (["run", "-o", "leakage.embedder=onnx"], "leakage.embedder_path"),
        (["run", "--engine", "deployment"], "start one with fl-sim up --users N"),
        (["run", "--engine", "nonsense"], "federation.engine"),
        (["run", "--config", "nowhere.toml"], "nowhere.toml cannot be read"),
        (["attack", "nowhere"], "no run folder"),
        (["report", "nowhere"], "no run folder"),
        (["watch", "nowhere"], "no run folder"),
        (["sweep", "nowhere"], "there is no study 'nowhere'"),
        (["sweep", "defenses_quick", "--workers", "slurm"], "choose ray or local"),
        (["sweep", "defenses_quick", "-o", "base.dataset.user=3"], "did you mean 'base.dataset.users'?"),
        (["sweep", "defenses_quick", "-o", "base.attacks.user_diffusion.step=3"], "attacks.user_diffusion.steps"),
        (["sweep", "defenses_quick", "-o", "cells=[{defenses=[{name='clipp'}]}]"], "did you mean 'clip'?"),
        (["frontier", "nowhere"], "no sweep.parquet"),
        (["faces", "-o", "dataset.users=0"], "dataset.users"),
    ],
)
def test_a_mistake_costs_one_sentence_and_leaves_nothing_behind(fl_sim, arguments, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = fl_sim(*arguments)
    assert code == 2
    assert told in err
    assert "Traceback" not in err
    assert out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_is_json_where_json_was_asked_for(fl_sim):
    for arguments, code in ((["run", "-o", "rounds=3"], 2), (["report", "nowhere"], 2), (["run", "--enginee"], 2)):
        found, out, err = fl_sim(*arguments, "--json")
        told = json.loads(out)
        assert found == told["exit_code"] == code
        assert f"error: {told['error']}" in err


@pytest.mark.parametrize(
    "overrides",
    [
        ["rounds=3"],
        ["defenses=[{name='clipp'}]"],
        ["attacks.user_difusion.steps=3"],
        ["attacks.user_diffusion.step=3"],
        ["seed=1"],
        ["attacks.user_diffusion.steps=3"],
    ],
)
def test_a_misspelt_name_and_another_run_are_told_before_anything_heavy_is_imported(overrides, tmp_path):
    run = tmp_path / "quickstart"
    run.mkdir()
    (run / "config.toml").write_text(dump(Config()))
    words = ["fl-sim", "run", "--runs", str(tmp_path), *(word for one in overrides for word in ("-o", one))]
    code = f"""
import sys
sys.argv = {words!r}
from experiments.cli import app
try:
    app.main()
except SystemExit as end:
    print(end.code, {HEAVY} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "2 set()", done.stderr


def test_a_planned_run_is_no_other_run(tmp_path):
    """What a run adds to its config by itself, who knows what of the defenses, makes it no other."""
    from experiments.cli.early import check_run
    from experiments.plan.attackers import planned

    config = load(None, ["defenses=[{name = 'clip', max_norm = 1.0}]"])
    run = RunFolder(tmp_path)
    run.config.write_text(dump(planned(config)))
    check_run(config, run)
    check_run(planned(config), run)
    with pytest.raises(ConfigError, match=r"attacks.prior_only.steps was not set, now it is 3"):
        check_run(load(None, ["defenses=[{name = 'clip', max_norm = 1.0}]", "attacks.prior_only.steps=3"]), run)


def test_what_was_not_measured_is_said_to_be(capsys):
    from experiments.cli.console import print_answer

    print_answer(None, False)
    assert capsys.readouterr().out == "Nothing was measured: no attack has left a reconstruction.\n"
    print_answer(None, True)
    assert json.loads(capsys.readouterr().out)["verdict"] is None


def test_a_misspelt_command_is_guessed_once(fl_sim):
    assert fl_sim("frontie")[2].count("Did you mean 'frontier'?") == 1


def test_version(fl_sim):
    assert fl_sim("--version")[:2] == (0, f"fl-sim {version('fl-sim')}\n")


def test_every_key_is_listed_with_what_it_takes_and_means(fl_sim):
    listed = json.loads(fl_sim("config", "--json")[1])
    assert all(key["takes"] and key["meaning"] for key in listed)
    by_name = {key["key"]: key for key in listed}
    assert by_name["federation.rounds"]["default"] == Config().federation.rounds
    assert by_name["defenses.clip.max_norm"]["needed"]
    for name in attacks.available():
        settings = attacks.load(name, {}).settings
        stated = {
            key.removeprefix(f"attacks.{name}."): one
            for key, one in by_name.items()
            if key.startswith(f"attacks.{name}.")
        }
        assert {key: one["default"] for key, one in stated.items()} == {
            **vars(settings),
            "knowledge": None,
            "preset": None,
        }
    assert {key.split(".")[1] for key in by_name if key.startswith("defenses.")} == set(defenses.names())


def test_one_key_is_explained(fl_sim):
    assert fl_sim("config", "dataset.image_size")[1].splitlines() == [
        "dataset.image_size = 64   (32, 64 or 128)",
        "    Pixels, height and width.",
    ]
    # The type is that of an alias in another file.
    told = fl_sim("config", "defenses.laplace_noise.relative")[1]
    assert "('absolute', 'clip_norm' or 'percentile95')" in " ".join(told.split())


@pytest.mark.parametrize(
    "prefix", [[], ["dataset"], ["attacks"], ["attacks.dlg"], ["defenses.clip"], ["federation.rounds"]]
)
def test_the_template_is_a_config_of_defaults(fl_sim, prefix, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(fl_sim("config", *prefix, "--toml")[1])
    one = {"attacks.dlg": {"attacks": {"dlg": {}}}, "defenses.clip": {"defenses": [{"name": "clip"}]}}
    assert load(path) == Config(**one.get("".join(prefix), {}))


def test_what_is_a_comment_in_the_template_may_be_uncommented(fl_sim, tmp_path):
    text = fl_sim("config", "attacks", "--toml")[1]
    path = tmp_path / "mine.toml"
    path.write_text(re.sub(r"^# ((\[|\w+ = ).*)$", r"\1", text, flags=re.MULTILINE))
    config = load(path)
    assert sorted(config.attacks) == attacks.available()
    assert attacks.load("dlg", config.attacks["dlg"]).settings == attacks.load("dlg", {}).settings
    assert len(config.attacks["dlg"]) == 3


def test_the_shell_completes_keys(monkeypatch):
    words = {"COMP_WORDS": "fl-sim sweep -o base.dataset.u", "COMP_CWORD": "3", "_FL_SIM_COMPLETE": "complete_bash"}
    code = "from experiments.cli.app import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **words})
    assert done.stdout.split() == ["base.dataset.users=", "base.dataset.users_split="]


def test_faces_writes_a_sheet(fl_sim, tmp_path):
    sheet = tmp_path / "sheet.png"
    assert fl_sim("faces", "--out", sheet, "--users", 2, "--photos", 2, "-o", "dataset.image_size=32")[0] == 0
    assert sheet.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_doctor_names_a_remedy_for_all_that_is_not_well(fl_sim):
    _, out, _ = fl_sim("doctor", "--json")
    findings = json.loads(out)
    assert {"flwr", "ray", "torch", "GPU", "disk", "Ray", "prior synthetic64"} <= {line["subject"] for line in findings}
    assert all(line["remedy"] for line in findings if line["state"] != "ok")


def test_a_prior_that_is_not_what_it_says_costs_one_sentence_before_anything_is_trained(fl_sim, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prior = tmp_path / "prior"
    shutil.copytree(SHIPPED / "synthetic64", prior)
    scheduler = prior / "scheduler" / "scheduler_config.json"
    scheduler.write_text(scheduler.read_text().replace("v_prediction", "epsilon"))
    code, out, err = fl_sim("run", "-o", f"attacks.user_diffusion.prior={prior}")
    assert (code, out) == (2, "")
    assert "predicts epsilon, but it takes the noise off grey images only if read as v_prediction" in err
    assert list(tmp_path.iterdir()) == [prior]
