"""The picture of a run's faces: what there is, in its place; what there is not is told in a sentence."""

import shutil
from pathlib import Path

import pytest
import torch
from fake_run import fake_run

from experiments.benchmarks.judging import made_up
from experiments.studies import faces
from fl_sim.config import dump


def test_a_picture_has_a_place_for_each_column_and_leaves_what_is_missing_empty() -> None:
    image = torch.rand(3, 16, 16)
    made = faces.picture([[image] * len(faces.COLUMNS), [None, *[image] * (len(faces.COLUMNS) - 1)]])
    assert made[8:12] == b"WEBP"


def test_users_that_a_run_lacks_and_numbers_that_are_none_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = fake_run(tmp_path / "made", users=2, rounds=1), str(tmp_path / "faces.webp")
    assert faces.main([str(run.root), "--users", "7", "--out", out]) == 2
    assert "no update of user 7" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        faces.main([str(run.root), "--users", "all", "--out", out])
    assert "--users all given; give numbers" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        faces.main([str(run.root), "--out", str(tmp_path / "faces.png")])
    assert "faces.png given; give a name that ends with .webp" in capsys.readouterr().err


def test_an_attack_that_a_run_lacks_is_named_and_without_the_prior_alone_its_place_stays_empty(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, config = made_up(tmp_path / "made", users=1, number=0)
    run.config.write_text(dump(config))
    out = str(tmp_path / "faces.webp")
    assert faces.main([str(run.root), "--users", "0", "--attack", "nosuch", "--out", out]) == 2
    assert "no reconstruction of user 0 by 'nosuch'" in capsys.readouterr().err
    assert faces.row(run, 0, "user_diffusion")[-1] is not None
    shutil.rmtree(run.reconstructions / "prior_only")
    assert faces.row(run, 0, "user_diffusion")[-1] is None
