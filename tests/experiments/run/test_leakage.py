"""Laws of the leakage table: its columns, rows and keys, whatever the attacks left."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from dp_accounting import get_epsilon_gaussian
from pattern_run import ROUNDS, SIZE, USERS, Patterns, config, embed, pattern_run, reconstruction

from attacker.capture.store import Capture, CaptureStore, write_reconstruction
from attacker.observation import Reconstruction
from experiments.evaluate.arms import CAPTIONS
from experiments.evaluate.columns import COLUMNS, KEYS
from experiments.evaluate.evaluator import open_models
from experiments.evaluate.pictures import Eye
from experiments.run import leakage
from experiments.run.leakage import look_ahead, measure
from experiments.statistics.aggregate import aggregate
from experiments.statistics.interval import dumps
from experiments.statistics.significance import findings
from fl_sim.config import Config, Protocol, Workers
from fl_sim.federation.shuffling import users_by_pseudonym
from fl_sim.runs import RunFolder

__all__ = ["config"]  # a fixture
# Nothing is inferred without a picture, every update is seen by itself, and no attack draws what it leaves open.
WITHOUT_INFERENCE = set(CAPTIONS) - {"attribute_inference", "best_member", "determined"}
SINGLE = WITHOUT_INFERENCE - {"all_images", "best_image"}  # arms of attacks that leave one image


def test_the_table_has_every_documented_column_of_its_dtype_and_one_row_a_key(config: Config, tmp_path: Path) -> None:
    run = pattern_run(tmp_path)
    table = measure(run, config)
    assert list(table.columns) == [*COLUMNS, "attr_red_true", "attr_red_inferred", "attr_red_share"]
    assert {name: str(table[name].dtype) for name in COLUMNS} == {
        name: column.dtype for name, column in COLUMNS.items()
    }
    assert len(table) == ROUNDS * USERS * len(SINGLE)
    assert not table.duplicated(KEYS).any()
    assert set(table["arm"]) == SINGLE
    assert set(table["attack"]) == {"copy"}  # prior_only is an arm of it
    assert table["lpips"].isna().all() or table["lpips"].notna().all()
    pd.testing.assert_frame_equal(pd.read_parquet(run.leakage), table)
    assert len(pd.read_csv(run.leakage.with_suffix(".csv"))) == len(table)


def test_a_perfect_recogniser_finds_the_photo_and_the_copy_but_no_floor(config: Config, tmp_path: Path) -> None:
    table = measure(pattern_run(tmp_path), config)
    for arm in ("own_photo", "own_mean", "attack"):
        rows = table[table["arm"] == arm]
        assert (rows["rank"] == 1).all(), arm
        assert rows["verified_at_far_1e3"].all(), arm
        assert (rows["facial_similarity"] > 0.95).all(), arm
    for arm in ("wrong_update", "public_mean", "prior_only"):
        rows = table[table["arm"] == arm]
        assert (rows["facial_similarity"] < 0.6).all(), arm
        assert not rows["verified_at_far_1e3"].any(), arm
    assert (table["similarity_min"] <= table["facial_similarity"] + 1e-6).all()
    assert (table["facial_similarity"] <= table["similarity_max"] + 1e-6).all()
    figures = aggregate(table)["overall"]["copy"]
    assert figures["attack"]["normalised_leakage"].mean == pytest.approx(1.0, abs=0.05)
    assert figures["wrong_update"]["normalised_leakage"].mean == pytest.approx(0.0)
    assert figures["own_photo"]["attr_red"].mean == 1.0


def test_the_wrong_update_is_that_of_the_next_user(config: Config, tmp_path: Path) -> None:
    table = measure(pattern_run(tmp_path), config).set_index(["round", "user", "arm"])
    dataset = Patterns()
    for user in range(USERS):
        other = embed(dataset.user((user + 1) % USERS).private.photos.mean(0)[None])
        expected = float((embed(dataset.user(user).private.photos) @ other[0]).mean())
        assert table.loc[(1, user, "wrong_update"), "facial_similarity"] == pytest.approx(expected, abs=1e-5)
    of_attacks = table["matching_loss"].notna().groupby("arm").all()
    assert set(of_attacks[of_attacks].index) == {"attack", "prior_only"}


def test_measuring_again_gives_the_same_table_and_reports_progress(config: Config, tmp_path: Path) -> None:
    run, told = pattern_run(tmp_path), []
    first = measure(run, config, progress=lambda done, users: told.append((done, users)))
    pd.testing.assert_frame_equal(measure(run, config), first, check_exact=True)
    assert told == [(done, USERS) for done in range(1, USERS + 1)]


def test_an_attack_added_later_does_not_change_the_rows_of_the_first(config: Config, tmp_path: Path) -> None:
    before = measure(pattern_run(tmp_path / "one"), config)
    after = measure(pattern_run(tmp_path / "two", ("copy", "other", "prior_only")), config)
    kept = after[after["attack"] == "copy"].reset_index(drop=True)
    tried = "epsilon_audited"  # corrected for how many were tried
    pd.testing.assert_frame_equal(kept.drop(columns=tried), before.drop(columns=tried), check_exact=True)
    assert (kept[tried].dropna() < before[tried].dropna()).all()
    assert set(after["attack"]) == {"copy", "other"}


def test_a_reconstruction_of_nan_is_a_row_of_nulls(config: Config, tmp_path: Path) -> None:
    run = pattern_run(tmp_path)
    broken = Reconstruction(torch.full((1, 3, SIZE, SIZE), torch.nan), torch.ones(1), float("nan"), 2.0)
    write_reconstruction(run, "copy", 1, 2, broken, {"name": "copy"})
    table = measure(run, config)
    row = table[(table["round"] == 1) & (table["user"] == 2) & (table["arm"] == "attack")].iloc[0]
    assert row[["facial_similarity", "rank", "psnr", "ssim", "attr_red_inferred"]].isna().all()
    assert row["attr_red_true"] in (0, 1)
    assert len(table) == ROUNDS * USERS * len(SINGLE)
    json.loads(dumps(aggregate(table)), parse_constant=pytest.fail)  # no NaN
    assert aggregate(table)["rounds"]["1"]["copy"]["attack"]["rank1"].mean == (USERS - 1) / USERS


def test_a_missing_reconstruction_is_a_row_of_nulls_and_a_rejected_user_no_row(config: Config, tmp_path: Path) -> None:
    run = pattern_run(tmp_path, rejected=3)
    run.reconstruction("copy", 2, 0).unlink()
    table = measure(run, config)
    assert 3 not in set(table["user"])
    attacked = table[(table["arm"] == "attack") & (table["round"] == 2)].set_index("user")
    assert pd.isna(attacked.loc[0, "facial_similarity"])
    assert attacked.loc[[1, 2], "facial_similarity"].notna().all()


def test_without_prior_only_the_arm_is_absent(config: Config, tmp_path: Path) -> None:
    table = measure(pattern_run(tmp_path, ("copy",)), config)
    assert "prior_only" not in set(table["arm"])


def test_a_run_without_attacks_has_an_empty_table(config: Config, tmp_path: Path) -> None:
    table = measure(pattern_run(tmp_path, ()), config)
    assert list(table.columns[:6]) == KEYS
    assert len(table) == 0


def test_the_range_within_the_batch_is_that_of_its_pairs(config: Config, tmp_path: Path) -> None:
    table = measure(pattern_run(tmp_path), config)
    vectors = embed(Patterns().user(2).private.photos)
    cosines = [float(a @ b) for i, a in enumerate(vectors) for b in vectors[:i]]
    row = table[table["user"] == 2].iloc[0]
    assert (row["in_batch_min"], row["in_batch_max"]) == pytest.approx((min(cosines), max(cosines)), abs=1e-6)


def test_rounds_that_were_not_to_be_attacked_have_no_rows(config: Config, tmp_path: Path) -> None:
    run = pattern_run(tmp_path)
    for user in range(USERS):
        run.reconstruction("copy", 1, user).unlink()
    assert set(measure(run, config)["round"]) == {1, 2}  # failed, and said so
    planned = config.model_copy(update={"workers": Workers(attack_rounds=[2])})
    assert set(measure(run, planned)["round"]) == {2}


def test_a_sum_is_judged_against_each_member_and_the_one_it_is_most_like(config: Config, tmp_path: Path) -> None:
    run, dataset, weights = RunFolder(tmp_path), Patterns(), {"w": torch.zeros(2)}
    store = CaptureStore(run)
    store.save_model(1, weights)
    groups = {0: (0, 1), 2: (2, 3)}
    captures = [
        Capture(user, user, "accepted", "", 12, 0.0, 8, 0.1, weights, members=members)
        for user, members in groups.items()
    ]
    store.save_round(1, captures, "gradient", 0.1, weights)
    store.wait()
    for user, shown in ((0, 1), (2, 2)):  # the first sum leaks its second member, the second its first
        photo = dataset.user(shown).private.photos.mean(0)
        write_reconstruction(run, "copy", 1, user, reconstruction(photo), {"name": "copy"})
    defenses = [{"name": "clip", "max_norm": 1.0}, {"name": "gaussian_noise", "std": 2.0}]
    table = measure(run, config.model_copy(update={"defenses": defenses}))
    attack = table[table["arm"] == "attack"].set_index("user")
    assert attack["capture"].to_dict() == {0: 0, 1: 0, 2: 2, 3: 2}
    assert (table["group_size"] == 2).all()
    assert attack["rank"].to_dict()[1] == attack["rank"].to_dict()[2] == 1
    best = table[table["arm"] == "best_member"]
    assert best["user"].tolist() == [1, 2]
    assert aggregate(table)["overall"]["copy"]["best_member"]["rank1"].mean == 1.0
    wrong = table[table["arm"] == "wrong_update"].set_index("user")["rank"]
    assert wrong.loc[[0, 1]].gt(1).all()  # that of the other sum
    assert table["epsilon"].tolist() == pytest.approx([get_epsilon_gaussian(1.0, 1e-5)] * len(table))
    assert (table["delta"] == 1e-5).all()


def test_behind_pseudonyms_everybody_is_judged_by_the_own_update(config: Config, tmp_path: Path) -> None:
    run, dataset, weights = RunFolder(tmp_path), Patterns(), {"w": torch.zeros(2)}
    store = CaptureStore(run)
    store.save_model(1, weights)
    for number in (1, 2):
        captures = [Capture(at, at, "accepted", "", 6, 0.0, 8, 0.1, weights) for at in range(USERS)]
        store.save_round(number, captures, "gradient", 0.1, weights)
        for pseudonym, user in enumerate(users_by_pseudonym(config.seed, number, range(USERS))):
            photo = dataset.user(user).private.photos.mean(0)
            write_reconstruction(run, "copy", number, pseudonym, reconstruction(photo), {"name": "copy"})
    store.wait()
    shuffled = config.model_copy(
        update={"protocol": Protocol(shuffle=True), "dataset": config.dataset.model_copy(update={"users": USERS})}
    )
    table = measure(run, shuffled)
    attack = table[table["arm"] == "attack"]
    assert (attack["rank"] == 1).all()
    assert (attack["capture"] != attack["user"]).any()
    assert attack["epsilon"].isna().all()


def test_pictures_that_judges_saw_while_attacks_were_at_work_are_not_seen_again_and_change_nothing(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []
    look = Eye._look

    def counting(self: Eye, images: Any, draws: Any) -> Any:
        looked.append(len(images))
        return look(self, images, draws)

    monkeypatch.setattr(Eye, "_look", counting)
    monkeypatch.setattr(leakage, "LOOK", 0.0)
    run = pattern_run(tmp_path)
    open_models.cache_clear()
    expected = measure(run, config)
    whole = len(looked)
    open_models.cache_clear()
    looked.clear()
    look_ahead(run, config, iter([True, False]).__next__)
    assert 0 < len(looked) < whole  # photos are looked at when a user is scored
    pd.testing.assert_frame_equal(measure(run, config), expected, check_exact=True)
    assert len(looked) == whole
    look_ahead(RunFolder(tmp_path / "nothing"), config, iter([True, False]).__next__)


def test_a_planned_attack_that_left_nothing_has_no_answers_rather_than_no_rows(config: Config, tmp_path: Path) -> None:
    """It failed, or was stopped before its turn. Without rows the verdict is on the others alone: nothing leaks."""
    run = pattern_run(tmp_path)
    table = measure(
        run, config.model_copy(update={"attacks": {"copy": {}, "lost": {"name": "copy"}, "prior_only": {}}})
    )
    lost = table[(table["attack"] == "lost") & (table["arm"] == "attack")]
    assert len(lost) == ROUNDS * USERS
    assert lost["rank"].isna().all()
    assert {one.answers for one in findings(table) if one.attack == "lost"} == {0}
