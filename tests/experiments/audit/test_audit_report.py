"""An audit is measured and shown as a run is: beside another's update, with exact intervals, and never all clear."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import torch
from browser import PROGRAM, Browser
from command_line import fl_sim
from external_nets import tiny
from torch import Tensor

from attacker.attack import Attack, Needs
from attacker.capture.store import Capture, CaptureStore, write_reconstruction
from attacker.external import external_model
from attacker.external.external_model import ExternalModel
from attacker.observation import LocalTraining, Observation, Reconstruction
from clients.datasets import open_dataset
from experiments.audit import audit, judging, page
from experiments.audit.judging import People
from experiments.evaluate.embedders import synthetic
from fl_sim.config import ConfigError, Dataset
from fl_sim.runs import RunFolder

PHOTOS = 4
TRAINING = LocalTraining(1, 0, 0.1)


def photos(users: int) -> dict[int, Tensor]:
    """Of people under numbers that are not those of places."""
    people = open_dataset(Dataset(users=users, photos=PHOTOS, image_size=32), 0)
    return {3 * user + 1: people.user(user).private.photos for user in range(users)}


def federation(root: Path, users: list[int], num_examples: int | None = PHOTOS) -> RunFolder:
    """A folder as AuditedStrategy leaves it after one round."""
    run, network = RunFolder(root / "audit"), tiny()
    external_model.save(run, ExternalModel.of(tiny, 32))
    store, sent = CaptureStore(run), {name: value.clone() for name, value in network.state_dict().items()}
    store.save_model(1, sent)
    update = {name: value + 0.01 for name, value in sent.items()}
    captures = [Capture(user, user, "accepted", "", num_examples, 1.0, 1, 0.1, update) for user in users]
    store.save_round(1, captures, "weights", 0.1, sent, TRAINING)
    store.wait()
    return run


def audited(run: RunFolder, people: People | None) -> tuple[page.Audit, page.Audited]:
    leakage = None if people is None else judging.measure(run, people, 0)
    found = page.Audit(run, ExternalModel.of(tiny, 32), TRAINING, 0, people, leakage, ["a doubt"], ["all is plain"])
    return found, page.read(found)


def seen(run: RunFolder, label: str, user: int, image: Tensor, **more: Tensor) -> None:
    found = Reconstruction(image[None], torch.ones(1), 0.0, 0.0, **more)
    write_reconstruction(run, label, 1, user, found, {"name": "inverting_gradients"})


@pytest.fixture(scope="module")
def known() -> dict[int, Tensor]:
    return photos(18)


@pytest.fixture(scope="module")
def leaking(tmp_path_factory: pytest.TempPathFactory, known: dict[int, Tensor]) -> tuple[page.Audit, page.Audited]:
    """Of each of six users a private photo is found."""
    people = People(dict(list(known.items())[:6]), synthetic(), "synthetic")
    run = federation(tmp_path_factory.mktemp("leaking"), list(people.photos))
    for user, own in people.photos.items():
        seen(run, "exact", user, own[2])
    return audited(run, people)


def test_a_perfect_picture_names_its_user_and_another_users_update_does_not(
    leaking: tuple[page.Audit, page.Audited],
) -> None:
    found, data = leaking
    assert data.judged is not None
    assert data.judged.kind == "named"
    assert data.judged.strongest.named_by_controls["wrong_update"] == 0
    assert data.judged.strongest.named_by_photo == 6  # the judge can do it
    attacked = pd.DataFrame({"round": [1] * 6, "user": list(found.people.photos), "matching_loss": 0.0})
    table = judging.beside(attacked, found.leakage, "exact")
    assert table["rank"].tolist() == [1] * 6
    assert set(table["among"]) == {6}
    assert (table["facial_similarity"] > table["wrong_update"] + 0.2).all()
    assert found.leakage["verified_at_far_1e2"].isna().all()  # 30 pairs of people show no 1 %
    assert data.gallery_size == 6


def test_the_wrong_update_is_the_next_users_picture_scored_against_this_one(
    leaking: tuple[page.Audit, page.Audited], known: dict[int, Tensor]
) -> None:
    table, users, embed = leaking[0].leakage, list(known)[:6], synthetic()
    rows = table[table["arm"] == "wrong_update"].set_index("user")["facial_similarity"]
    for user, other in zip(users, [*users[1:], users[0]], strict=True):
        expected = float((embed(known[user][1:]) @ embed(known[other][2:3])[0]).mean())
        assert rows[user] == pytest.approx(expected, abs=1e-5)


def test_the_page_has_verdict_controls_and_limits_and_no_photo_unasked(
    leaking: tuple[page.Audit, page.Audited],
) -> None:
    found, data = leaking
    page.write(found, data)
    text = found.run.report.read_text()
    for said in ("exact names all 6 users among 6 people: 54&nbsp;% to", "wrong update", "guessing names 1 of 6"):
        assert said.replace("&nbsp;", "\N{NO-BREAK SPACE}") in text
    assert "A doubt." in text
    assert "All is plain." in text
    assert "private photo 1" not in text
    assert "--with-private-photos puts them in" in text
    assert not re.search(r'(?:src|href)="(?!data:|#)', text)
    page.write(found, data, with_private_photos=True)
    assert "private photo 1 of user 16" in found.run.report.read_text()


@pytest.mark.slow
@pytest.mark.skipif(PROGRAM is None, reason="no Chromium here; install Debian's chromium package to run this")
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_a_browser_shows_all_of_it(leaking: tuple[page.Audit, page.Audited], width: int, dark: bool) -> None:
    found, data = leaking
    page.write(found, data, with_private_photos=True)
    with Browser(width, 844, dark) as browser:
        browser.open(found.run.report)
        browser.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
        assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert browser.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
        assert browser.evaluate("document.querySelectorAll('.hero li.hit').length") == 6
        assert browser.problems == []


def test_pictures_of_nobody_are_never_all_clear(tmp_path: Path, known: dict[int, Tensor]) -> None:
    for users, kind, said in ((5, "too few users", "Too few users to tell"), (18, "unknown defense", "No verdict")):
        people = People(dict(list(known.items())[:users]), synthetic(), "synthetic")
        run = federation(tmp_path / str(users), list(people.photos))
        for user in people.photos:
            seen(run, "grey", user, torch.full((3, 32, 32), 0.5))
        found, data = audited(run, people)
        assert data.judged is not None
        assert data.judged.kind == kind
        page.write(found, data)
        assert f">{said}" in found.run.report.read_text()


def test_one_photo_a_user_leaves_the_judge_untried_and_says_so(tmp_path: Path, known: dict[int, Tensor]) -> None:
    people = People({user: own[:1] for user, own in list(known.items())[:2]}, synthetic(), "synthetic")
    run = federation(tmp_path, list(people.photos))
    for user, own in people.photos.items():
        seen(run, "exact", user, own[0])
    found, data = audited(run, people)
    assert "own_photo" not in set(found.leakage["arm"])
    assert page.UNTRIED in data.missing


def test_draws_are_audited_beside_the_answer(tmp_path: Path, known: dict[int, Tensor]) -> None:
    people = People(dict(list(known.items())[:2]), synthetic(), "synthetic")
    run, users = federation(tmp_path, list(people.photos)), list(people.photos)
    for user, other in zip(users, reversed(users), strict=True):
        drawn = torch.stack([known[user][1], known[other][1]])
        seen(run, "drawn", user, drawn[0], draws=drawn, determined=drawn[1])
        seen(run, "plain", user, drawn[0])
    found, data = audited(run, people)
    attacked = pd.DataFrame({"round": [1, 1], "user": users})
    judged = judging.beside(attacked, found.leakage, "drawn")
    pairs = (judged["facial_similarity"] + judged["determined"]) / 2
    assert judged["draws_similarity"].tolist() == pytest.approx(pairs.tolist(), abs=1e-6)
    assert "determined" not in judging.beside(attacked, found.leakage, "plain")
    page.write(found, data)
    assert "mean face that the update determines" in found.run.report.read_text()


def test_a_prior_stands_beside_the_attack_that_uses_it(tmp_path: Path) -> None:
    captures = audit.captured(federation(tmp_path, [0, 1]), [])
    attack = external_model.open_attack("user_diffusion", {})
    alone = audit.control(captures, attack, 0)
    assert alone is not None
    assert (alone.label, alone.settings.prior) == ("prior_only", attack.settings.prior)
    found = Reconstruction(torch.zeros(1, 3, 32, 32), torch.ones(1), 0.0, 0.0)
    write_reconstruction(captures.run, "prior_only", 1, 0, found, {"name": "prior_only", "prior": "another"})
    beside = audit.control(captures, attack, 0)
    assert beside is not None
    assert beside.label == "prior_only-user_diffusion"
    assert audit.control(captures, external_model.open_attack("inverting_gradients", {}), 0) is None
    assert audit.control(captures, alone, 0) is None
    assert json.loads(captures.run.audit.read_text())["image_size"] == 32


@dataclass(frozen=True)
class Rounds:
    rounds: int


@pytest.mark.parametrize(("rounds", "told"), [(1, [[], [], []]), (2, [[], [1], [2]]), (9, [[], [1], [2, 1]])])
def test_an_attack_on_several_rounds_is_told_of_the_users_earlier_ones(
    rounds: int, told: list[list[int]], tmp_path: Path
) -> None:
    run = federation(tmp_path, [0])
    store, sent = CaptureStore(run), dict(tiny().state_dict())
    for number in (2, 3):
        store.save_round(number, [Capture(0, 0, "accepted", "", 4, 1.0, 1, 0.1, sent)], "weights", 0.1, sent, TRAINING)
    store.wait()
    handed: list[Observation] = []

    def attack(observations: list[Observation], *rest: object) -> list[Reconstruction]:
        handed.extend(observations)
        return [Reconstruction(torch.zeros(1, 3, 32, 32), torch.ones(1), 0.0, 0.0)]

    probe = Attack("a", "probe", Rounds(rounds), attack, Needs(rounds=rounds))
    audit.reconstruct(audit.captured(run, []), ExternalModel.of(tiny, 32), probe, 0, lambda done, total: None)
    assert [[one.server_round for one in seen.history] for seen in handed] == told


@pytest.mark.parametrize("photos_told", [PHOTOS, None])
def test_an_audit_rebuilds_a_damaged_index(photos_told: int | None, tmp_path: Path) -> None:
    """What it lists is as before; users who did not tell how many photos they have still have not."""
    run = federation(tmp_path, [0, 1], photos_told)
    index = run.captures / "index.jsonl"
    lines = index.read_bytes().splitlines()
    index.write_bytes(b"\n".join([b'{"round": 2, "user": 0, "no{}', lines[0], b"damaged", lines[-1], b""]))
    with pytest.raises(ConfigError, match="fl-sim audit"):
        CaptureStore(run).finished_rounds()
    command = ["audit", run.root, "--attack", "inverting_gradients", "-o", "steps=1", "--num-examples", PHOTOS]
    code, told = fl_sim(*command)
    assert code == 0, told
    assert "had 2 damaged lines; it was rebuilt from the captures" in told
    store = CaptureStore(run)
    assert [(row["user"], row["num_examples"]) for row in store.replies(1)] == [(0, photos_told), (1, photos_told)]
    assert len(list(run.reconstructions.rglob("user-*.safetensors"))) == 2
