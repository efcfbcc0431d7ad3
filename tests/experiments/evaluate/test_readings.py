"""How a reconstruction is read: several images, draws of what an update leaves open, the mean behind them."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from pattern_run import ROUNDS, SIZE, USERS, Patterns, classify, config, embed, leave, pattern_run, rows_of
from torch import Tensor
from torch.nn import functional as F

from attacker.capture.store import write_reconstruction
from attacker.observation import Reconstruction
from experiments.evaluate.arms import CAPTIONS
from experiments.evaluate.pictures import vote
from experiments.evaluate.realism import SWD
from experiments.run.leakage import measure
from experiments.statistics.aggregate import aggregate
from fl_sim.config import Config
from fl_sim.runs import RunFolder
from fl_sim.seeds import generator

__all__ = ["config"]  # a fixture
# Nothing is inferred without a picture, every update is seen by itself, and no attack draws what it leaves open.
WITHOUT_INFERENCE = set(CAPTIONS) - {"attribute_inference", "best_member", "determined"}
SINGLE = WITHOUT_INFERENCE - {"all_images", "best_image"}  # arms of attacks that leave one image
DRAWN = ["draws", "draws_similarity", "draws_spread", "attr_red_share"]


def test_identical_images_say_together_what_one_says(config: Config, tmp_path: Path) -> None:
    run = pattern_run(tmp_path)
    leave(run, 1, [Patterns().user(1).private.photos.mean(0)] * 3, [0.5, 0.3, 0.2])
    rows = rows_of(measure(run, config), 1)
    for arm in ("all_images", "best_image"):
        left, right = (
            rows.loc[[one]].reset_index(drop=True).drop(columns=["epsilon_audited", *SWD]) for one in (arm, "attack")
        )
        pd.testing.assert_frame_equal(left, right, rtol=1e-5)


def test_where_one_user_has_several_images_every_user_is_read_in_all_ways(config: Config, tmp_path: Path) -> None:
    run = pattern_run(tmp_path)
    leave(run, 1, [Patterns().user(1).private.photos.mean(0)] * 2, [0.5, 0.5])
    run.reconstruction("copy", 1, 3).unlink()
    table = measure(run, config)
    for _, rows in table.groupby(["round", "user"]):
        assert sorted(rows["arm"]) == sorted(WITHOUT_INFERENCE)  # else means over users would be of different people
    assert rows_of(table, 3)["facial_similarity"].loc[["attack", "all_images", "best_image"]].isna().all()


def test_the_best_image_is_the_one_most_like_the_user_wherever_it_stands(config: Config, tmp_path: Path) -> None:
    run = pattern_run(tmp_path)
    own, other = (Patterns().user(user).private.photos.mean(0) for user in (0, 1))
    leave(run, 0, [other, own, torch.full_like(own, 0.3)], [0.6, 0.2, 0.2])
    rows = rows_of(measure(run, config), 0)
    assert rows.loc["best_image", "facial_similarity"] > rows.loc["attack", "facial_similarity"]
    for metric in ("facial_similarity", "rank", "psnr", "attr_red_inferred"):
        assert rows.loc["best_image", metric] == pytest.approx(rows.loc["own_mean", metric])


def test_images_count_by_their_weight(config: Config, tmp_path: Path) -> None:
    run = pattern_run(tmp_path)
    own, other = (Patterns().user(user).private.photos.mean(0) for user in (0, 1))
    red, blue = (torch.zeros(3, SIZE, SIZE).index_fill_(0, torch.tensor([c]), 1.0) for c in (0, 2))
    leave(run, 0, [red, blue, blue], [0.6, 0.2, 0.2])
    leave(run, 1, [red, blue, blue], [0.4, 0.3, 0.3])
    leave(run, 2, [own, other], [0.7, 0.3])
    table = measure(run, config)
    assert [rows_of(table, user).loc["all_images", "attr_red_inferred"] for user in (0, 1)] == [1, 0]
    mean = F.normalize(0.7 * embed(own[None]) + 0.3 * embed(other[None]), dim=1)[0]
    expected = float((embed(Patterns().user(2).private.photos) @ mean).mean())
    assert rows_of(table, 2).loc["all_images", "facial_similarity"] == pytest.approx(expected, abs=1e-6)


def draw(run: RunFolder, user: int, draws: Tensor, answer: int = 0, determined: Tensor | None = None) -> None:
    """User `user` is left with draws (n, 3, H, W), of which the answer is one."""
    made = Reconstruction(draws[answer][None], torch.ones(1), 0.25, 1.5, draws, determined)
    for number in range(1, ROUNDS + 1):
        write_reconstruction(run, "copy", number, user, made, {"name": "copy"})


def reds(*amounts: float) -> Tensor:
    """(n, 3, H, W) of black with so much red each."""
    return torch.tensor([[amount, 0.0, 0.0] for amount in amounts])[:, :, None, None].expand(-1, -1, SIZE, SIZE)


def test_draws_tell_attributes_by_majority_and_how_many_agree(config: Config, tmp_path: Path) -> None:
    run = pattern_run(tmp_path)
    draw(run, 0, reds(0.2, 0.9, 0.8, 0.7))  # the answer is no red one
    draw(run, 1, reds(0.9, 0.1, 0.9, 0.1))
    table = measure(run, config)
    row = rows_of(table, 0).loc["attack"]
    assert (row["attr_red_inferred"], row["attr_red_share"], row["draws"]) == (1, 0.75, 4)
    row = rows_of(table, 1).loc["attack"]
    assert (row["attr_red_inferred"], row["attr_red_share"]) == (0, 0.5)  # the lower class of two that are even
    assert rows_of(table, 0).loc["wrong_update", "attr_red_share"] == 0.5  # the control is read as the attack is
    assert table.loc[~table["arm"].isin(("attack", "wrong_update")), DRAWN].isna().all(axis=None)
    assert table.loc[table["user"] == 3, DRAWN].loc[table["arm"] == "attack"].isna().all(axis=None)  # left no draws


def test_a_draw_is_like_the_user_on_average_and_its_spread_is_that_of_the_pixels(
    config: Config, tmp_path: Path
) -> None:
    run = pattern_run(tmp_path)
    own, other = (Patterns().user(user).private.photos.mean(0) for user in (0, 1))
    draw(run, 0, torch.stack([own, other, other]))
    draw(run, 1, torch.stack([own] * 3))
    table = measure(run, config)
    photos = embed(Patterns().user(0).private.photos)
    each = [float((photos @ embed(image[None])[0]).mean()) for image in (own, other, other)]
    row = rows_of(table, 0).loc["attack"]
    assert row["facial_similarity"] == pytest.approx(each[0], abs=1e-6)
    assert row["draws_similarity"] == pytest.approx(sum(each) / 3, abs=1e-6)
    assert row["draws_spread"] == pytest.approx(float((own - other).abs().mean() * 2**0.5 / 3), abs=1e-6)
    assert rows_of(table, 1).loc["attack", "draws_spread"] == 0
    assert aggregate(table)["overall"]["copy"]["attack"]["draws_similarity"].mean is not None


def test_the_order_of_the_draws_says_nothing(config: Config, tmp_path: Path) -> None:
    draws = torch.rand(5, 3, SIZE, SIZE, generator=generator(0, "draws"))
    tables = []
    for name, order in {"one": [0, 1, 2, 3, 4], "two": [4, 0, 3, 2, 1]}.items():
        run = pattern_run(tmp_path / name)
        draw(run, 2, draws[order], answer=order.index(0))
        tables.append(measure(run, config))
    pd.testing.assert_frame_equal(*tables, rtol=1e-12)


def test_the_shares_of_the_classes_add_up_and_the_largest_is_told() -> None:
    images = torch.rand(7, 3, SIZE, SIZE, generator=generator(0, "votes"))
    votes = classify(images)["red"].bincount() / 7
    found, share = vote(classify(images), torch.ones(7))["red"]
    assert votes.sum() == 1
    assert share == pytest.approx(float(votes[found])) == pytest.approx(float(votes.max()))


def test_what_the_update_determines_is_an_arm_of_every_user(config: Config, tmp_path: Path) -> None:
    run = pattern_run(tmp_path)
    own, draws = Patterns().user(1).private.photos.mean(0), reds(0.9, 0.8)
    draw(run, 1, draws, determined=own)
    run.reconstruction("copy", 1, 3).unlink()
    table = measure(run, config)
    for _, rows in table.groupby(["round", "user"]):
        assert sorted(rows["arm"]) == sorted({*SINGLE, "determined"})
    rows = rows_of(table, 1)
    assert rows.loc["determined", "rank"] == 1
    assert rows.loc["attack", "rank"] > 1
    for metric in ("facial_similarity", "psnr", "sharpness_fine", "attr_red_inferred"):
        assert rows.loc["determined", metric] == pytest.approx(rows.loc["own_mean", metric])
    assert table.loc[(table["arm"] == "determined") & (table["user"] != 1), "facial_similarity"].isna().all()


def test_draws_change_no_column_of_the_answer_but_their_own(config: Config, tmp_path: Path) -> None:
    """A table without draws is that of one with them, whose draws are left away."""
    run, draws = pattern_run(tmp_path), reds(0.9, 0.8, 0.7)
    for user in range(USERS):
        draw(run, user, draws, determined=draws[0])
    drawn = measure(run, config)
    for user in range(USERS):
        leave(run, user, [draws[0]], [1.0])
    plain = measure(run, config)
    assert plain[DRAWN].isna().all(axis=None)
    same = drawn[drawn["arm"] != "determined"].reset_index(drop=True)
    apart = [*DRAWN, "epsilon_audited"]  # which is corrected for the readings that were tried
    pd.testing.assert_frame_equal(same.drop(columns=apart), plain.drop(columns=apart))


def test_draws_of_nan_leave_the_answer_as_it_is(config: Config, tmp_path: Path) -> None:
    run = pattern_run(tmp_path)
    draws = torch.cat([reds(0.9), torch.full((1, 3, SIZE, SIZE), torch.nan)])
    draw(run, 1, draws)
    row = rows_of(measure(run, config), 1).loc["attack"]
    assert row[DRAWN].isna().all()
    assert row["attr_red_inferred"] == 1
