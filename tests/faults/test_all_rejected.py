"""A run in which no update was of use does not end as if all were well."""

from tiny_faces import tiny_config

from experiments.run import pipeline
from fl_sim.runs import RunFolder


def test_a_run_whose_updates_were_all_rejected_ends_with_a_problem(tmp_path):
    told = {}
    for name, limit in (("absurd", 1e-9), ("fine", 1e6)):
        config = tiny_config(federation={"max_norm": limit}, workers={"backend": "none"})
        outcome = pipeline.run(config, RunFolder(tmp_path / name), lambda *done: None, lambda sentence: None)
        assert outcome.report.exists()
        told[name] = outcome.problems
    assert told["fine"] == []
    assert told["absurd"] == [f"all 8 updates were rejected; {tmp_path / 'absurd' / 'log.jsonl'} says why"]
