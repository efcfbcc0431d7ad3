"""The study of judges: its figures follow from cosines, and its command writes numbers alone."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from clients.user import Faces
from experiments.studies import judges
from fl_sim.seeds import generator


def people(count: int, alike: float) -> list[Faces]:
    """Two photos each, the second `alike` (0 to 1) the first and else noise."""
    draws = generator(0, "judges", count)
    first = torch.rand(count, 3, 8, 8, generator=draws)
    second = alike * first + (1 - alike) * torch.rand(count, 3, 8, 8, generator=draws)
    pairs = torch.stack([first, second], dim=1)
    return [Faces(pair, torch.zeros(2), {"Male": index % 2}) for index, pair in enumerate(pairs)]


def embed(photos: Tensor) -> Tensor:
    return F.normalize((photos - 0.5).flatten(1), dim=1)


def test_a_judge_that_sees_is_right_and_one_that_does_not_guesses() -> None:
    found = judges.recognition(embed, people(40, 1.0))
    assert found["rank1"][0] == found["verified"][0] == found["auc"] == 1
    assert found["rank1"][1] == pytest.approx(0.025 ** (1 / 40))  # Clopper-Pearson of 40 of 40
    found = judges.recognition(embed, people(400, 0.0))
    assert found["rank1"][0] < 0.02
    assert 0.42 < found["verified"][0] < 0.58
    assert 0.42 < found["auc"] < 0.58


def test_the_threshold_is_of_the_other_half() -> None:
    cosines = torch.eye(8).double()
    assert judges.verified(cosines) == 16
    cosines[::2, ::2] += 10  # even people are told apart among themselves, by a threshold that odd people do not know
    assert judges.verified(cosines) == 8


def test_attributes_are_read_of_whom_they_are_known() -> None:
    shown = [*people(9, 1.0), Faces(torch.zeros(2, 3, 8, 8), torch.zeros(2), {})]
    figures = judges.reading(lambda photos: {"male": torch.ones(len(photos), dtype=torch.int64)}, shown)
    assert figures["male"][0] == pytest.approx(4 / 9)
    assert figures["male_commoner"] == pytest.approx(5 / 9)


def test_the_command_prints_a_table_and_writes_figures_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judges, "FEWEST", 3)
    monkeypatch.setattr(judges, "SIZES", (32,))
    for person in range(12):
        (tmp_path / f"faces/{person}").mkdir(parents=True)
        for photo in range(4):
            pixels = np.full((32, 32, 3), 20 * person + photo, dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"faces/{person}/{photo}.png")
    options = ["-o", "dataset.name=folder", "-o", f"dataset.root={tmp_path / 'faces'}", "-o", "dataset.users=1"]
    judged = ["--embedder", "synthetic", "--attributes", "synthetic"]
    assert judges.main([*options, *judged, "--out", str(tmp_path / "judges.json")]) == 0
    printed = capsys.readouterr().out
    assert judges.main(["--show", str(tmp_path / "judges.json")]) == 0
    assert capsys.readouterr().out == printed
    assert "| synthetic | 32 px |" in printed
    written = json.loads((tmp_path / "judges.json").read_text())
    assert [(row["judge"], row["size"]) for row in written["rows"]] == [("synthetic", 32)] * 2
    assert str(tmp_path) not in (tmp_path / "judges.json").read_text()
    assert judges.main([*options, "--embedder", "onnx=absent.onnx"]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_a_study_of_no_judge_is_refused_before_photos_are_read(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        judges.main(["-o", "dataset.name=nosuch"])
    assert "no judge given; give --embedder" in capsys.readouterr().err
