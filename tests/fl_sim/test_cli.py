import json
import shutil
import subprocess
import sys

import pytest

from attacker.priors.prior import SHIPPED
from experiments.cli import app


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
    heavy = "{'pandas', 'torch', 'flwr', 'ray', 'diffusers'} & set(sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, experiments.cli.app; print({heavy})"], capture_output=True, text=True
    )
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
        "doctor",
    ],
)
def test_every_command_explains_itself(fl_sim, command):
    code, out, _ = fl_sim(command, "--help")
    assert code == 0
    assert "Usage" in out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["run", "-o", "dataset.user=3"], "did you mean 'users'?"),
        (["train-prior", "--out", "prior", "--channels", "24,50"], "multiples of 8"),
        (["train-prior", "--out", "prior", "--channels", ",".join(["32"] * 8)], "as many levels as 64 px"),
        (["run", "-o", "dataset.name=sinthetic"], "did you mean 'synthetic'?"),
        (["run", "-o", "dataset.name=folder"], "dataset.root"),
        (["run", "-o", "model.name=convnett"], "unknown model 'convnett'"),
        (["run", "-o", "defenses=[{name='clipp'}]"], "did you mean 'clip'?"),
        (["run", "-o", "attacks.user_difusion.steps=3"], "user_difusion"),
        (["run", "-o", "attacks.user_diffusion.step=3"], "did you mean 'steps'?"),
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
        (["sweep", "defenses_quick", "-o", "base.dataset.user=3"], "did you mean 'users'?"),
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
