"""Laws of the verdict: a leak is called one whoever reads it, and nothing found is called safe only where it may be."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fake_run import fake_run
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from clients.defenses import load_all
from experiments.plan.attackers import declared
from experiments.show.report import write_report
from experiments.show.report.run_data import distorted
from experiments.statistics.audited_epsilon import audited_epsilon
from experiments.statistics.shares import LEVEL, lower_limit, upper_limit
from experiments.statistics.significance import audit, findings
from experiments.statistics.verdict import percent, verdict
from fl_sim.config import Config, parse
from fl_sim.runs import RunFolder


def rows(
    users: int = 24,
    named: int = 0,
    alike: float = 0.0,
    attack: str = "a",
    server_round: int = 1,
    knowledge: str = "parameters",
    named_by_control: int = 0,
    seed: int = 0,
) -> pd.DataFrame:
    """An attack that names so many users, whose pictures are more like them than the controls' by `alike`."""
    draw = np.random.default_rng(seed)
    made = []
    for user in range(users):
        for arm in ("attack", "prior_only", "wrong_update", "public_mean", "base_rate"):
            hit = user < {"attack": named, "wrong_update": named_by_control}.get(arm, 0)
            made.append(
                {
                    "run": "r", "seed": 0, "round": server_round, "user": user, "attack": attack, "arm": arm,
                    "knowledge": knowledge, "rank": 1 if hit else 50, "gallery_size": 100, "group_size": 1,
                    "facial_similarity": draw.normal(0, 0.1) + (alike if arm == "attack" else 0.0),
                    "epsilon": math.nan, "epsilon_audited": math.nan, "delta": 1e-5, "matching_loss": 0.01,
                    "attr_hat_true": 1, "attr_hat_inferred": 0,
                }
            )  # fmt: skip
    return pd.DataFrame(made).astype({"rank": "Int64", "attr_hat_true": "Int64", "attr_hat_inferred": "Int64"})


def audited(table: pd.DataFrame, gaussian: bool = False) -> pd.DataFrame:
    return table.assign(epsilon_audited=audit(table, gaussian))


def kind(*tables: pd.DataFrame, unknown: tuple[str, ...] = ()) -> str:
    judged = verdict(findings(pd.concat(tables, ignore_index=True)), unknown)
    assert judged is not None
    return judged.kind


def test_two_of_six_named_are_a_leak_whatever_the_bootstrap_says() -> None:
    table = rows(users=6, named=2)
    assert kind(table) == "named"
    assert findings(table)[0].p_named == pytest.approx(binomtest(2, 6, 0.01, alternative="greater").pvalue)


def test_nobody_named_is_safe_only_of_enough_users_and_by_who_knows_the_defense() -> None:
    assert kind(rows(users=24)) == "nothing"
    assert kind(rows(users=14)) == "too few users"
    assert kind(rows(users=24), unknown=("shrink",)) == "unknown defense"
    assert kind(rows(users=24, named=9), unknown=("shrink",)) == "named"


def test_pictures_that_resemble_their_users_and_attributes_are_leaks_too() -> None:
    assert kind(rows(alike=0.3)) == "alike"
    table = rows()
    table.loc[table["arm"] == "attack", "attr_hat_inferred"] = 1
    assert kind(table) == "attributes"


def test_pictures_that_do_not_explain_their_updates_are_no_all_clear() -> None:
    poor = rows().assign(matching_loss=0.4)
    assert kind(poor) == "unexplained"
    assert kind(poor, rows(attack="b")) == "nothing"  # another attack explains them
    judged = verdict(findings(poor), distorted=True)  # no picture explains noise
    assert judged is not None
    assert judged.kind == "nothing"


def test_attacks_that_left_no_pictures_give_no_all_clear() -> None:
    failed = rows().assign(knowledge="parameters")
    gone = (failed["arm"] == "attack") & (failed["user"] >= 10)
    failed.loc[gone, ["rank", "facial_similarity", "matching_loss"]] = None
    found = findings(failed)
    assert (found[0].users, found[0].answers, found[0].unanswered) == (24, 10, 14)
    assert found[0].share.high == pytest.approx(upper_limit(14, 24, LEVEL / 2))  # whom they would name is not known
    for tables in ([failed], [failed, rows(attack="weaker", knowledge="none")]):
        judged = verdict(findings(pd.concat(tables, ignore_index=True)), distorted=True)
        assert judged is not None
        assert judged.kind == "too few users"
        assert "none of 24 users, 14 of whom it left without an answer, among" in judged.sentence()


def test_pictures_need_not_explain_updates_that_defenses_distort_and_no_others() -> None:
    def of(*tables: dict[str, Any]) -> bool:
        config = parse(Config, {"defenses": list(tables)})
        return distorted({"defenses": declared(load_all(config.defenses))}, config.defenses)

    clip, noise = {"name": "clip", "max_norm": 1e9}, {"name": "gaussian_noise", "std": 0.01}
    assert not of()
    assert not of(clip)
    assert not of({"name": "gaussian_noise", "std": 0.0}, {"name": "prune", "keep": 1.0})
    assert of(clip, noise)
    assert of({"name": "sign"})
    assert distorted({"defenses": [None]}, [])
    assert distorted({}, [clip])  # a manifest of an older version


def test_users_of_one_sum_are_one_answer() -> None:
    summed = rows().assign(capture=0, group_size=24)
    assert kind(summed) == "too few users"
    found = findings(summed)[0]
    assert found.answers == 1
    assert found.share.high == pytest.approx(upper_limit(0, 1, LEVEL / 2))
    named = findings(rows(named=1).assign(capture=0, group_size=24))[0]
    assert named.share.low == pytest.approx(lower_limit(1, 1, LEVEL / 2) / 24)
    apart = rows(users=48)
    assert kind(apart.assign(capture=apart["user"] // 2, group_size=2)) == "nothing"


def test_a_judge_that_names_nobody_by_a_real_photo_gives_no_all_clear() -> None:
    table = rows()
    photo = table[table["arm"] == "attack"].assign(arm="own_photo")
    assert kind(table, photo) == "blind judge"
    assert kind(table, photo.assign(rank=1)) == "nothing"
    judged = verdict(findings(pd.concat([table, photo])))
    assert judged is not None
    assert "names none of 24 users by a real photo" in judged.sentence()


def test_the_prior_alone_is_no_attack() -> None:
    table = rows(attack="faces")
    drawn = table[table["arm"] == "prior_only"]
    table = pd.concat([table[table["arm"] != "attack"], drawn.assign(arm="attack")], ignore_index=True)
    assert findings(table) == []
    assert kind(table, rows(attack="b", named=9)) == "named"


def test_a_control_that_names_as_many_is_no_leak() -> None:
    assert kind(rows(named=3, named_by_control=3)) == "nothing"
    assert kind(rows(named=9, named_by_control=3)) == "named"


def test_the_leak_may_be_in_any_round_and_attack_and_in_all_images_together() -> None:
    assert kind(rows(), rows(server_round=2), rows(attack="b", server_round=2, named=6)) == "named"
    several = rows()
    together = several[several["arm"] == "attack"].assign(arm="all_images", rank=1).astype({"rank": "Int64"})
    assert kind(several, together) == "named"
    inferred = several[several["arm"] == "attack"].assign(arm="attribute_inference", rank=1).astype({"rank": "Int64"})
    judged = verdict(findings(pd.concat([several, inferred])))
    assert judged is not None
    assert judged.strongest.attack == "attribute inference"
    assert "attribute inference, without a picture, names all 24 users" in judged.sentence()
    judged = verdict(findings(pd.concat([several, together])))
    assert judged is not None
    assert "a, all images together, which knows the defense, names all 24 users" in judged.sentence()


def test_a_mean_face_that_names_users_is_a_leak_though_what_was_drawn_from_it_names_nobody() -> None:
    drawn = rows()
    mean = drawn[drawn["arm"] == "attack"].assign(arm="determined", rank=1).astype({"rank": "Int64"})
    assert kind(drawn) == "nothing"
    judged = verdict(findings(pd.concat([drawn, mean])))
    assert judged is not None
    assert judged.kind == "named"
    assert "a, by the mean face that the update determines, which knows the defense, names all 24" in judged.sentence()


def test_a_thin_leak_of_another_user_each_round_is_one() -> None:
    rounds = []
    for number in range(1, 21):
        table = rows(users=20, server_round=number)
        table.loc[(table["arm"] == "attack") & (table["user"] == number - 1), "rank"] = 1
        rounds.append(table)
    found = findings(pd.concat(rounds, ignore_index=True))
    judged = verdict(found)
    assert judged is not None
    assert judged.kind == "named"
    assert judged.strongest.server_round is None
    assert "names all 20 users among 100 people in some round" in judged.sentence()
    same = [table.assign(rank=rounds[0]["rank"]) for table in rounds]  # one user, whom the gallery is near to, always
    judged = verdict(findings(pd.concat(same, ignore_index=True)))
    assert judged is not None
    assert judged.kind == "nothing"


def test_p_values_are_corrected_for_the_attacks_and_rounds_of_the_table() -> None:
    one = rows(named=2)
    alone = findings(one)[0].p_named
    among = findings(pd.concat([one, *(rows(attack=f"b{n}", server_round=r) for n in range(3) for r in (1, 2))]))
    assert among[0].p_named == pytest.approx(min(1.0, 10 * alone))  # seven, and three over both rounds


@pytest.mark.slow
def test_attacks_that_know_nothing_are_called_a_leak_in_at_most_one_table_of_twenty() -> None:
    draw = np.random.default_rng(3)
    wrong = 0
    for trial in range(200):
        tables = [rows(named=int(draw.binomial(24, 0.01)), attack=str(n), seed=10 * trial + n) for n in range(3)]
        wrong += kind(*tables) in {"named", "alike"}
    assert wrong / 200 <= 2 * LEVEL  # two families of tests: naming and likeness


def test_the_audited_epsilon_is_that_of_the_count_corrected_for_what_was_tried() -> None:
    table = audited(pd.concat([rows(named=20), rows(named=1, attack="b")], ignore_index=True), gaussian=True)
    found = findings(table)
    assert found[0].epsilon_audited == audited_epsilon(20, 24, 100, 1e-5, gaussian=True, tried=2)
    assert found[1].epsilon_audited == 0.0
    assert table.loc[table["arm"] != "attack", "epsilon_audited"].isna().all()


def test_sums_of_users_are_not_audited() -> None:
    assert audited(rows(named=20).assign(group_size=4))["epsilon_audited"].isna().all()


def test_a_promise_that_is_disproved_is_said_first_and_foremost(tmp_path: Path) -> None:
    table = audited(rows(named=20).assign(epsilon=1.0))
    judged = verdict(findings(table))
    assert judged is not None
    assert judged.sentence().startswith("The defense does not keep its promise: epsilon is at least 5.25")
    assert judged.facts()["keeps_promise"] is False
    kept = verdict(findings(table.assign(epsilon=9.0)))
    assert kept is not None
    assert kept.facts()["keeps_promise"] is True
    assert "promise" not in kept.sentence()
    run = fake_run(tmp_path / "broken", rounds=1)
    table = pd.read_parquet(run.leakage).assign(epsilon=0.5)
    table.assign(epsilon_audited=audit(table, gaussian=True)).to_parquet(run.leakage)
    assert "does not keep its promise" in write_report(RunFolder(run.root)).read_text()


@given(st.floats(0, 1))
def test_a_share_is_never_rounded_to_none_or_all(share: float) -> None:
    said = percent(share)
    assert (said == "0 %") == (share == 0)
    assert (said == "100 %") == (share == 1)


def test_what_is_plain_in_every_round_is_found_however_many_rounds_are_tested() -> None:
    rounds = [rows(alike=0.6, server_round=number, seed=number) for number in range(1, 601)]
    assert kind(*rounds) == "alike"


def test_the_prior_alone_is_no_attack_where_a_picture_of_it_is_missing() -> None:
    table = rows()
    control = table[table["arm"] == "prior_only"]
    table.loc[table["arm"] == "attack", "facial_similarity"] = control["facial_similarity"].to_numpy()
    table.loc[(table["user"] == 3) & table["arm"].isin(["attack", "prior_only"]), "facial_similarity"] = math.nan
    assert verdict(findings(table)) is None
