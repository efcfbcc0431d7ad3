"""Laws of the leakage table, on people who are coloured patterns and a recogniser that knows them."""

import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import torch
from dp_accounting import get_epsilon_gaussian
from torch import Tensor
from torch.nn import functional as F

from attacker.capture.store import Capture, CaptureStore, write_reconstruction
from attacker.observation import Reconstruction
from clients.user import Faces, User
from experiments.evaluate import judgement
from experiments.evaluate.controls import ARMS, prior_label, wrong_user
from experiments.evaluate.gallery import Gallery, build_gallery
from experiments.evaluate.realism import SWD
from experiments.run import leakage
from fl_sim.config import Config, Leakage, Protocol, Workers
from fl_sim.federation.shuffling import users_by_pseudonym
from fl_sim.runs import RunFolder
from fl_sim.seeds import generator

SIZE = 32
USERS, ROUNDS = 4, 2
# `leakage.direct` is off, every update is seen by itself, and no attack draws what the update leaves open.
WITHOUT_DIRECT = set(ARMS) - {"direct_update", "best_member", "determined"}
SINGLE = WITHOUT_DIRECT - {"all_images", "best_image"}  # arms of attacks that leave one image


@dataclass
class Patterns:
    """A `FaceDataset` whose people are 4x4 patterns of colour; photos differ by noise."""

    num_users: int = USERS
    num_public: int = 40
    num_classes: int = 2
    image_size: int = SIZE

    def _faces(self, kind: str, person: int, count: int) -> Faces:
        pattern = torch.rand(1, 3, 4, 4, generator=generator(0, kind, person))
        noise = 0.05 * torch.randn(count, 3, SIZE, SIZE, generator=generator(1, kind, person, count))
        photos = (F.interpolate(pattern, size=(SIZE, SIZE)) + noise).clamp(0, 1)
        return Faces(photos, torch.zeros(count, dtype=torch.int64), {"Red": int(pattern[0, 0].mean() > 0.5)})

    def user(self, partition: int) -> User:
        return User(partition, f"p{partition}", self._faces("u", partition, 6), self._faces("u", partition, 4))

    def public(self, index: int) -> Faces:
        return self._faces("p", index, 4)


def embed(photos: Tensor) -> Tensor:
    return F.normalize((F.adaptive_avg_pool2d(photos, 4) - 0.5).flatten(1), dim=1)


def classify(photos: Tensor) -> dict[str, Tensor]:
    return {"red": (photos[:, 0].mean((1, 2)) > 0.5).long()}


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> Config:
    for module in (leakage, judgement):
        monkeypatch.setattr(module, "open_dataset", lambda dataset, seed: Patterns())
    monkeypatch.setattr(judgement.embedders, "open_embedder", lambda settings: embed)
    monkeypatch.setattr(judgement.attributes, "open_classifier", lambda settings: classify)
    return Config(name="r", leakage=Leakage(gallery_size=20))


def reconstruction(picture: Tensor) -> Reconstruction:
    return Reconstruction(picture[None], torch.ones(1), matching_loss=0.25, seconds=1.5)


def make_run(root: Path, attacks: tuple[str, ...] = ("copy", "prior_only"), rejected: int | None = None) -> RunFolder:
    """A run whose attack `copy` returns the user's mean photo, and whose prior draws the same grey."""
    run, dataset = RunFolder(root), Patterns()
    store = CaptureStore(run)
    weights = {"w": torch.zeros(2)}
    store.save_model(1, weights)
    for number in range(1, ROUNDS + 1):
        captures = [
            Capture(user, user, "rejected" if user == rejected else "accepted", "", 6, 0.0, 8, 0.1,
                    None if user == rejected else weights)
            for user in range(USERS)
        ]  # fmt: skip
        store.save_round(number, captures, "gradient", 0.1, weights)
        for label in attacks:
            for user in range(USERS):
                own = dataset.user(user).private.photos.mean(0)
                picture = torch.full_like(own, 0.4) if label == "prior_only" else own
                if user != rejected:
                    write_reconstruction(run, label, number, user, reconstruction(picture), {"name": label})
    store.wait()
    return run


def test_the_table_has_every_documented_column_of_its_dtype_and_one_row_a_key(config: Config, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    table = leakage.measure(run, config)
    assert list(table.columns) == [*leakage.COLUMNS, "attr_red_true", "attr_red_inferred", "attr_red_share"]
    assert {name: str(table[name].dtype) for name in leakage.COLUMNS} == {
        name: column.dtype for name, column in leakage.COLUMNS.items()
    }
    assert len(table) == ROUNDS * USERS * len(SINGLE)
    assert not table.duplicated(leakage.KEYS).any()
    assert set(table["arm"]) == SINGLE
    assert set(table["attack"]) == {"copy"}  # prior_only is an arm of it
    assert table["lpips"].isna().all() or table["lpips"].notna().all()
    pd.testing.assert_frame_equal(pd.read_parquet(run.leakage), table)
    assert len(pd.read_csv(run.leakage.with_suffix(".csv"))) == len(table)


def test_a_perfect_recogniser_finds_the_photo_and_the_copy_but_no_floor(config: Config, tmp_path: Path) -> None:
    table = leakage.measure(make_run(tmp_path), config)
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
    figures = leakage.aggregate(table)["overall"]["copy"]
    assert figures["attack"]["normalised_leakage"]["mean"] == pytest.approx(1.0, abs=0.05)
    assert figures["prior_only"]["normalised_leakage"]["mean"] == pytest.approx(0.0)
    assert figures["own_photo"]["attr_red"]["mean"] == 1.0


def test_the_wrong_update_is_that_of_the_next_user(config: Config, tmp_path: Path) -> None:
    table = leakage.measure(make_run(tmp_path), config).set_index(["round", "user", "arm"])
    dataset = Patterns()
    for user in range(USERS):
        other = embed(dataset.user((user + 1) % USERS).private.photos.mean(0)[None])
        expected = float((embed(dataset.user(user).private.photos) @ other[0]).mean())
        assert table.loc[(1, user, "wrong_update"), "facial_similarity"] == pytest.approx(expected, abs=1e-5)
    of_attacks = table["matching_loss"].notna().groupby("arm").all()
    assert set(of_attacks[of_attacks].index) == {"attack", "prior_only"}


@pytest.mark.parametrize("users", [[0, 1], [3, 5, 9], list(range(7))])
def test_the_wrong_user_is_never_the_user(users: list[int]) -> None:
    others = [wrong_user(user, users) for user in users]
    assert all(other != user for other, user in zip(others, users, strict=True))
    assert sorted(other for other in others if other is not None) == users  # each update is used once
    assert wrong_user(4, [4]) is None


def test_the_prior_control_is_the_one_with_the_same_prior() -> None:
    controls = {"b": {"prior": "rough"}, "a": {"prior": "fine"}}
    assert prior_label({"prior": "rough"}, controls) == "b"
    assert prior_label({}, controls) == "a"
    assert prior_label({}, {}) is None


def test_measuring_again_gives_the_same_table_and_reports_progress(config: Config, tmp_path: Path) -> None:
    run, told = make_run(tmp_path), []
    first = leakage.measure(run, config, progress=lambda done, users: told.append((done, users)))
    pd.testing.assert_frame_equal(leakage.measure(run, config), first, check_exact=True)
    assert told == [(done, USERS) for done in range(1, USERS + 1)]


def test_an_attack_added_later_does_not_change_the_rows_of_the_first(config: Config, tmp_path: Path) -> None:
    before = leakage.measure(make_run(tmp_path / "one"), config)
    after = leakage.measure(make_run(tmp_path / "two", ("copy", "other", "prior_only")), config)
    kept = after[after["attack"] == "copy"].reset_index(drop=True)
    tried = "epsilon_audited"  # corrected for how many were tried
    pd.testing.assert_frame_equal(kept.drop(columns=tried), before.drop(columns=tried), check_exact=True)
    assert (kept[tried].dropna() < before[tried].dropna()).all()
    assert set(after["attack"]) == {"copy", "other"}


def test_a_reconstruction_of_nan_is_a_row_of_nulls(config: Config, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    broken = Reconstruction(torch.full((1, 3, SIZE, SIZE), torch.nan), torch.ones(1), float("nan"), 2.0)
    write_reconstruction(run, "copy", 1, 2, broken, {"name": "copy"})
    table = leakage.measure(run, config)
    row = table[(table["round"] == 1) & (table["user"] == 2) & (table["arm"] == "attack")].iloc[0]
    assert row[["facial_similarity", "rank", "psnr", "ssim", "attr_red_inferred"]].isna().all()
    assert row["attr_red_true"] in (0, 1)
    assert len(table) == ROUNDS * USERS * len(SINGLE)
    json.dumps(leakage.aggregate(table), allow_nan=False)
    assert leakage.aggregate(table)["rounds"]["1"]["copy"]["attack"]["rank1"]["mean"] == (USERS - 1) / USERS


def test_a_missing_reconstruction_is_a_row_of_nulls_and_a_rejected_user_no_row(config: Config, tmp_path: Path) -> None:
    run = make_run(tmp_path, rejected=3)
    run.reconstruction("copy", 2, 0).unlink()
    table = leakage.measure(run, config)
    assert 3 not in set(table["user"])
    attacked = table[(table["arm"] == "attack") & (table["round"] == 2)].set_index("user")
    assert pd.isna(attacked.loc[0, "facial_similarity"])
    assert attacked.loc[[1, 2], "facial_similarity"].notna().all()


def test_without_prior_only_the_arm_is_absent(config: Config, tmp_path: Path) -> None:
    table = leakage.measure(make_run(tmp_path, ("copy",)), config)
    assert "prior_only" not in set(table["arm"])


def test_a_run_without_attacks_has_an_empty_table(config: Config, tmp_path: Path) -> None:
    table = leakage.measure(make_run(tmp_path, ()), config)
    assert list(table.columns[:6]) == leakage.KEYS
    assert len(table) == 0


def leave(run: RunFolder, user: int, images: list[Tensor], weights: list[float]) -> None:
    made = Reconstruction(torch.stack(images), torch.tensor(weights), 0.25, 1.5)
    for number in range(1, ROUNDS + 1):
        write_reconstruction(run, "copy", number, user, made, {"name": "copy"})


def rows_of(table: pd.DataFrame, user: int, number: int = 1) -> pd.DataFrame:
    return table[(table["user"] == user) & (table["round"] == number)].set_index("arm").drop(columns=["seconds"])


def test_identical_images_say_together_what_one_says(config: Config, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    leave(run, 1, [Patterns().user(1).private.photos.mean(0)] * 3, [0.5, 0.3, 0.2])
    rows = rows_of(leakage.measure(run, config), 1)
    for arm in ("all_images", "best_image"):
        left, right = (
            rows.loc[[one]].reset_index(drop=True).drop(columns=["epsilon_audited", *SWD]) for one in (arm, "attack")
        )
        pd.testing.assert_frame_equal(left, right, rtol=1e-5)


def test_where_one_user_has_several_images_every_user_is_read_in_all_ways(config: Config, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    leave(run, 1, [Patterns().user(1).private.photos.mean(0)] * 2, [0.5, 0.5])
    run.reconstruction("copy", 1, 3).unlink()
    table = leakage.measure(run, config)
    for _, rows in table.groupby(["round", "user"]):
        assert sorted(rows["arm"]) == sorted(WITHOUT_DIRECT)  # else means over users would be of different people
    assert rows_of(table, 3)["facial_similarity"].loc[["attack", "all_images", "best_image"]].isna().all()


def test_the_best_image_is_the_one_most_like_the_user_wherever_it_stands(config: Config, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    own, other = (Patterns().user(user).private.photos.mean(0) for user in (0, 1))
    leave(run, 0, [other, own, torch.full_like(own, 0.3)], [0.6, 0.2, 0.2])
    rows = rows_of(leakage.measure(run, config), 0)
    assert rows.loc["best_image", "facial_similarity"] > rows.loc["attack", "facial_similarity"]
    for metric in ("facial_similarity", "rank", "psnr", "attr_red_inferred"):
        assert rows.loc["best_image", metric] == pytest.approx(rows.loc["own_mean", metric])


def test_images_count_by_their_weight(config: Config, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    own, other = (Patterns().user(user).private.photos.mean(0) for user in (0, 1))
    red, blue = (torch.zeros(3, SIZE, SIZE).index_fill_(0, torch.tensor([c]), 1.0) for c in (0, 2))
    leave(run, 0, [red, blue, blue], [0.6, 0.2, 0.2])
    leave(run, 1, [red, blue, blue], [0.4, 0.3, 0.3])
    leave(run, 2, [own, other], [0.7, 0.3])
    table = leakage.measure(run, config)
    assert [rows_of(table, user).loc["all_images", "attr_red_inferred"] for user in (0, 1)] == [1, 0]
    mean = F.normalize(0.7 * embed(own[None]) + 0.3 * embed(other[None]), dim=1)[0]
    expected = float((embed(Patterns().user(2).private.photos) @ mean).mean())
    assert rows_of(table, 2).loc["all_images", "facial_similarity"] == pytest.approx(expected, abs=1e-6)


DRAWN = ["draws", "draws_similarity", "draws_spread", "attr_red_share"]


def draw(run: RunFolder, user: int, draws: Tensor, answer: int = 0, determined: Tensor | None = None) -> None:
    """User `user` is left with draws (n, 3, H, W), of which the answer is one."""
    made = Reconstruction(draws[answer][None], torch.ones(1), 0.25, 1.5, draws, determined)
    for number in range(1, ROUNDS + 1):
        write_reconstruction(run, "copy", number, user, made, {"name": "copy"})


def reds(*amounts: float) -> Tensor:
    """(n, 3, H, W) of black with so much red each."""
    return torch.tensor([[amount, 0.0, 0.0] for amount in amounts])[:, :, None, None].expand(-1, -1, SIZE, SIZE)


def test_draws_tell_attributes_by_majority_and_how_many_agree(config: Config, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    draw(run, 0, reds(0.2, 0.9, 0.8, 0.7))  # the answer is no red one
    draw(run, 1, reds(0.9, 0.1, 0.9, 0.1))
    table = leakage.measure(run, config)
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
    run = make_run(tmp_path)
    own, other = (Patterns().user(user).private.photos.mean(0) for user in (0, 1))
    draw(run, 0, torch.stack([own, other, other]))
    draw(run, 1, torch.stack([own] * 3))
    table = leakage.measure(run, config)
    photos = embed(Patterns().user(0).private.photos)
    each = [float((photos @ embed(image[None])[0]).mean()) for image in (own, other, other)]
    row = rows_of(table, 0).loc["attack"]
    assert row["facial_similarity"] == pytest.approx(each[0], abs=1e-6)
    assert row["draws_similarity"] == pytest.approx(sum(each) / 3, abs=1e-6)
    assert row["draws_spread"] == pytest.approx(float((own - other).abs().mean() * 2**0.5 / 3), abs=1e-6)
    assert rows_of(table, 1).loc["attack", "draws_spread"] == 0
    assert leakage.aggregate(table)["overall"]["copy"]["attack"]["draws_similarity"]["mean"] is not None


def test_the_order_of_the_draws_says_nothing(config: Config, tmp_path: Path) -> None:
    draws = torch.rand(5, 3, SIZE, SIZE, generator=generator(0, "draws"))
    tables = []
    for name, order in {"one": [0, 1, 2, 3, 4], "two": [4, 0, 3, 2, 1]}.items():
        run = make_run(tmp_path / name)
        draw(run, 2, draws[order], answer=order.index(0))
        tables.append(leakage.measure(run, config))
    pd.testing.assert_frame_equal(*tables, rtol=1e-12)


def test_the_shares_of_the_classes_add_up_and_the_largest_is_told(config: Config) -> None:
    judge = judgement.Judgement(judgement.open_judges(config), Patterns().user(0))
    images = torch.rand(7, 3, SIZE, SIZE, generator=generator(0, "votes"))
    votes = classify(images)["red"].bincount() / 7
    found, share = judge._read(images, torch.ones(7))["red"]
    assert votes.sum() == 1
    assert share == pytest.approx(float(votes[found])) == pytest.approx(float(votes.max()))


def test_what_the_update_determines_is_an_arm_of_every_user(config: Config, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    own, draws = Patterns().user(1).private.photos.mean(0), reds(0.9, 0.8)
    draw(run, 1, draws, determined=own)
    run.reconstruction("copy", 1, 3).unlink()
    table = leakage.measure(run, config)
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
    run, draws = make_run(tmp_path), reds(0.9, 0.8, 0.7)
    for user in range(USERS):
        draw(run, user, draws, determined=draws[0])
    drawn = leakage.measure(run, config)
    for user in range(USERS):
        leave(run, user, [draws[0]], [1.0])
    plain = leakage.measure(run, config)
    assert plain[DRAWN].isna().all(axis=None)
    same = drawn[drawn["arm"] != "determined"].reset_index(drop=True)
    apart = [*DRAWN, "epsilon_audited"]  # which is corrected for the readings that were tried
    pd.testing.assert_frame_equal(same.drop(columns=apart), plain.drop(columns=apart))


def test_draws_of_nan_leave_the_answer_as_it_is(config: Config, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    draws = torch.cat([reds(0.9), torch.full((1, 3, SIZE, SIZE), torch.nan)])
    draw(run, 1, draws)
    row = rows_of(leakage.measure(run, config), 1).loc["attack"]
    assert row[DRAWN].isna().all()
    assert row["attr_red_inferred"] == 1


def test_the_range_within_the_batch_is_that_of_its_pairs(config: Config, tmp_path: Path) -> None:
    table = leakage.measure(make_run(tmp_path), config)
    vectors = embed(Patterns().user(2).private.photos)
    cosines = [float(a @ b) for i, a in enumerate(vectors) for b in vectors[:i]]
    row = table[table["user"] == 2].iloc[0]
    assert (row["in_batch_min"], row["in_batch_max"]) == pytest.approx((min(cosines), max(cosines)), abs=1e-6)


def test_rounds_that_were_not_to_be_attacked_have_no_rows(config: Config, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    for user in range(USERS):
        run.reconstruction("copy", 1, user).unlink()
    assert set(leakage.measure(run, config)["round"]) == {1, 2}  # failed, and said so
    planned = config.model_copy(update={"workers": Workers(attack_rounds=[2])})
    assert set(leakage.measure(run, planned)["round"]) == {2}


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
    table = leakage.measure(run, config.model_copy(update={"defenses": defenses}))
    attack = table[table["arm"] == "attack"].set_index("user")
    assert attack["capture"].to_dict() == {0: 0, 1: 0, 2: 2, 3: 2}
    assert (table["group_size"] == 2).all()
    assert attack["rank"].to_dict()[1] == attack["rank"].to_dict()[2] == 1
    best = table[table["arm"] == "best_member"]
    assert best["user"].tolist() == [1, 2]
    assert leakage.aggregate(table)["overall"]["copy"]["best_member"]["rank1"]["mean"] == 1.0
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
    table = leakage.measure(run, shuffled)
    attack = table[table["arm"] == "attack"]
    assert (attack["rank"] == 1).all()
    assert (attack["capture"] != attack["user"]).any()
    assert attack["epsilon"].isna().all()


def test_random_embeddings_give_uniform_ranks() -> None:
    draw = generator(0, "random")
    templates = F.normalize(torch.randn(20, 64, generator=draw), dim=1)
    probes = F.normalize(torch.randn(4000, 64, generator=draw), dim=1)
    gallery = Gallery(templates, 20, torch.zeros(1), torch.zeros(3, 1, 1))
    ranks = torch.tensor([gallery.rank(probe, i % 20) or 0 for i, probe in enumerate(probes)])
    counts = torch.bincount(ranks, minlength=21)[1:]
    assert counts.sum() == 4000
    chi2 = float(((counts - 200) ** 2 / 200).sum())
    assert chi2 < 43.8  # 99.9 % quantile at 19 degrees of freedom


def test_ties_count_against_the_attacker() -> None:
    gallery = build_gallery(Patterns(), embed, 20)
    assert gallery.rank(torch.zeros(48), 0) == 20
    assert gallery.rank(torch.full((48,), torch.nan), 0) is None


@pytest.mark.parametrize("far", [1e-1, 1e-2, 1e-3])
def test_thresholds_yield_the_stated_false_acceptance_rate_on_the_impostors(far: float) -> None:
    gallery = build_gallery(Patterns(), embed, 44)
    accepted = float((gallery.impostors > gallery.threshold(far)).double().mean())
    assert len(gallery.impostors) == 44 * 43
    assert far - 1 / len(gallery.impostors) <= accepted <= far


def test_each_user_is_ranked_among_gallery_size_people_even_if_users_are_more() -> None:
    gallery = build_gallery(Patterns(num_users=30), embed, 5)
    for user in (0, 29):
        own = embed(Patterns().user(user).held_out.photos[:1])[0]
        assert gallery.rank(own, user) == 1
        assert gallery.rank(-own, user) == 5
