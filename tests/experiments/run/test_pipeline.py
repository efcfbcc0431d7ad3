"""A run that was stopped is taken up where it was, whatever it was doing."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fake_run import fake_run
from tiny_faces import tiny_config

from attacker.capture.store import CaptureStore
from experiments.plan.setup import prepare
from experiments.run import federation, pipeline
from experiments.run.trained import all_rounds
from fl_sim.config import Config, ConfigError, dump, load, parse
from fl_sim.runs import RunFolder


@pytest.mark.slow
def test_a_run_stopped_while_its_last_round_was_evaluated_is_not_finished_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path / "run")
    settings: dict[str, Any] = {
        "dataset": {"users": 2, "photos": 4, "image_size": 32},
        "model": {"name": "lenet"},
        "federation": {"engine": "inprocess", "rounds": 2},
        "workers": {"backend": "inprocess"},
        "threat_model": {"public_people": 0},
        "leakage": {"gallery_size": 4, "attributes": "none"},
        "attacks": {"inverting_gradients": {"steps": 1}},
    }
    config, evaluate = parse(Config, settings), federation._evaluate

    def stopped(strategy: Any, users: Any, timeout: float, server_round: int, arrays: Any) -> Any:
        if server_round == 2:
            strategy.store.wait()
            raise KeyboardInterrupt
        return evaluate(strategy, users, timeout, server_round, arrays)

    with monkeypatch.context() as patch:
        patch.setattr(federation, "_evaluate", stopped)
        with pytest.raises(KeyboardInterrupt):
            pipeline.complete(config, run, lambda *told: None, lambda note: None)
    assert not all_rounds(run, config)
    assert not pipeline.complete(config, run, lambda *told: None, lambda note: None).problems
    assert list(pd.read_parquet(run.rounds)["round"]) == [1, 2]


def test_no_attack_begins_on_a_round_that_is_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training would take its captures away while attacks read them."""
    run, config = RunFolder(tmp_path / "run"), tiny_config(workers={"backend": "none"})
    federation.run_federation(prepare(config), run)
    pd.read_parquet(run.rounds).iloc[:1].to_parquet(run.rounds)  # stopped while round 2 was evaluated
    seen: list[list[int]] = []

    @contextmanager
    def opened(*given: Any, **named: Any) -> Iterator[None]:
        seen.append(CaptureStore(run).finished_rounds())
        yield

    monkeypatch.setattr(pipeline, "dispatcher", opened)
    run.config.write_text(dump(config))
    for _ in range(2):
        pipeline.run(config, run, lambda *told: None, lambda note: None)
    assert seen == [[1], [1, 2]]  # and a run of which nothing is left to train keeps all
    assert list(pd.read_parquet(run.rounds)["round"]) == [1, 2]


def test_a_run_whose_rounds_cannot_be_read_is_taken_up_which_says_what_to_do(tmp_path: Path) -> None:
    """A sweep that asks who has trained must not end of it."""
    run, config = RunFolder(tmp_path / "run"), tiny_config(workers={"backend": "none"})
    federation.run_federation(prepare(config), run)
    run.config.write_text(dump(config))
    assert all_rounds(run, config)
    whole = run.rounds.read_bytes()
    run.rounds.write_bytes(b"PAR1")
    assert not all_rounds(run, config)
    with pytest.raises(ConfigError, match=r"rounds.parquet is damaged .* remove it"):
        pipeline.complete(config, run, lambda *told: None, lambda note: None)
    run.rounds.write_bytes(whole)
    index = run.captures / "index.jsonl"
    index.write_bytes(b"damaged\n" + index.read_bytes())
    assert not all_rounds(run, config)
    pipeline.complete(config, run, lambda *told: None, lambda note: None)
    assert all_rounds(run, config)  # rebuilt


def test_a_report_on_a_stopped_run_does_not_make_it_finished(tmp_path: Path) -> None:
    """`fl-sim attack` reports on the rounds that there are; the others are still to be trained."""
    run = fake_run(tmp_path / "made", rounds=2)
    run.report.write_text("done")
    config = load(run.config)
    run.config.write_text(dump(pipeline.attackers.planned(config)))
    assert pipeline.finished(config, run)
    pd.read_parquet(run.rounds).iloc[:1].to_parquet(run.rounds)
    assert not pipeline.finished(config, run)
