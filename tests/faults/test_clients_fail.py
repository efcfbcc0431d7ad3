"""In Flower's simulation one client's process dies, and another one never answers: at most its own update is lost."""

import pytest
from tiny_faces import tiny_config

from attacker.capture.store import CaptureStore
from experiments.plan.setup import prepare
from experiments.run.federation import run_federation
from fl_sim.runs import RunFolder


@pytest.mark.slow
def test_a_crash_and_a_silence_cost_no_other_update_and_the_run_ends(tmp_path):
    config = tiny_config(
        federation={"engine": "simulation", "rounds": 3, "timeout": 20},
        defenses=[{"name": "faulty_client:crash_or_hang", "folder": str(tmp_path)}],
    )
    run, faults = RunFolder(tmp_path / "run"), {0: "crash", 1: "hang"}

    def progress(done, total):
        if done in faults:
            (tmp_path / faults[done]).touch()

    run_federation(prepare(config), run, progress)
    store = CaptureStore(run)
    assert store.finished_rounds() == [1, 2, 3]
    # A new process may take longer than the timeout on a busy machine; nothing else is ever late.
    accepted = [len(store.users(number)) for number in store.finished_rounds()]
    assert min(accepted) >= 3, accepted
    assert accepted[1:] == [3, 4]
    silent = store.rejected()[-1]
    assert (silent["round"], silent["status"], silent["reason"]) == (2, "error", "no reply in time")
    assert {silent["user"], *store.users(2)} == {0, 1, 2, 3}
    assert not {"crash", "hang"} & {path.name for path in tmp_path.iterdir()}  # both happened
