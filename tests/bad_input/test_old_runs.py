"""Run folders as other versions wrote them: read as far as they go, or refused in one sentence."""

import json

import pandas as pd
import pytest
from command_line import fl_sim, sentence
from fake_run import fake_run
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny_faces import tiny_config

from attacker.capture.store import CaptureStore
from attacker.workers.jobs import Workbench
from experiments.plan.setup import prepare
from experiments.run.federation import run_federation
from experiments.show.report import write_report
from fl_sim.config import ConfigError, dump
from fl_sim.runs import RunFolder, read_manifest, write_manifest


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fake_run(tmp_path_factory.mktemp("runs") / "old", users=1, rounds=1, draws=2)


@pytest.fixture
def kept(run):
    """`run`, whose files are as before after the test."""
    paths = [run.manifest, run.rounds, run.leakage, run.config, run.captures / "index.jsonl"]
    before = {path: path.read_bytes() for path in paths}
    yield run
    for path, content in before.items():
        path.write_bytes(content)


@pytest.mark.parametrize("name", ["versions", "machine", "created", "threat_model", "seed"])
def test_a_report_does_without_a_key_of_the_manifest(name, kept):
    manifest = read_manifest(kept)
    del manifest[name]
    kept.manifest.write_text(json.dumps(manifest))
    assert write_report(kept).stat().st_size > 10_000


@pytest.mark.parametrize("name", ["accuracy", "examples", "rejected", "seconds", "epsilon"])
def test_a_report_does_without_a_column_of_the_rounds(name, kept):
    pd.read_parquet(kept.rounds).drop(columns=name, errors="ignore").to_parquet(kept.rounds)
    write_report(kept)


@pytest.mark.parametrize(
    "name",
    [
        "knowledge",
        "epsilon_audited",
        "delta",
        "similarity_min",
        "in_batch_min",
        "verified_at_far_1e3",
        "lpips",
        "draws",
        "draws_similarity",
        "attr_glasses_share",
    ],
)
def test_a_report_does_without_a_column_of_the_leakage(name, kept):
    pd.read_parquet(kept.leakage).drop(columns=name, errors="ignore").to_parquet(kept.leakage)
    write_report(kept)


@pytest.mark.parametrize("content", ["", "[]", "{", "3", "null", "\0"])
def test_a_manifest_that_is_none_is_a_sentence(content, tmp_path):
    run = RunFolder(tmp_path)
    run.manifest.write_text(content)
    with pytest.raises(ConfigError, match=r"manifest.json is no manifest .* remove it"):
        read_manifest(run)


def test_a_worker_that_needs_what_the_manifest_lacks_says_so(tmp_path):
    run = RunFolder(tmp_path)
    write_manifest(run, seed=0)
    with pytest.raises(ConfigError, match="does not say num_classes"):
        _ = Workbench(run.root).num_classes


def test_a_worker_that_knows_defenses_which_the_manifest_does_not_tell_says_so(tmp_path):
    run = RunFolder(tmp_path)
    run.config.write_text(dump(tiny_config(defenses=[{"name": "sign"}])))
    for stated in ({}, {"defenses": []}, {"defenses": "sign"}, {"defenses": [{"sings": True}]}, {"defenses": [3]}):
        write_manifest(run, **stated)
        with pytest.raises(ConfigError, match="does not say what the users' defenses are"):
            _ = Workbench(run.root).defenses


def test_captures_without_what_later_versions_write_are_read(tmp_path):
    run = RunFolder(tmp_path / "run")
    run_federation(prepare(tiny_config(federation={"rounds": 1}, dataset={"users": 1})), run)
    path = run.capture(1, 0)
    before = CaptureStore(run).observation(1, 0)
    facts = {"round": 1, "user": 0, "num_examples": before.num_examples, "label_proportions": None,
             "update": "gradient", "learning_rate": 0.1, "names": list(before.gradient)}  # fmt: skip
    save_file(load_file(path), path, {"facts": json.dumps(facts)})
    seen = CaptureStore(run).observation(1, 0)
    assert all((seen.gradient[name] == before.gradient[name]).all() for name in before.gradient)
    save_file(load_file(path), path)
    with pytest.raises(ConfigError, match=r"user-0000.safetensors is no capture"):
        CaptureStore(run).observation(1, 0)


@pytest.mark.parametrize("line", ["[federation]\nclients = 3\n", "[attack]\nname = 'dlg'\n"])
def test_a_config_with_keys_of_another_version_is_a_sentence(line, tmp_path):
    (tmp_path / "config.toml").write_text(line)
    for command in ("report", "attack"):
        code, told = fl_sim(command, tmp_path)
        assert code == 2
        assert "unknown config key" in sentence(told)


junk = st.dictionaries(
    st.sampled_from(["created", "versions", "machine", "seed", "threat_model", "num_classes", "users"]),
    st.none() | st.integers() | st.text(max_size=3) | st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    max_size=4,
)


@settings(max_examples=5, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(junk)
def test_no_manifest_breaks_the_report(run, manifest):
    before = run.manifest.read_bytes()
    try:
        run.manifest.write_text(json.dumps(manifest))
        write_report(run)
    finally:
        run.manifest.write_bytes(before)


def test_a_finished_run_of_another_version_is_taken_up(tmp_path):
    config = tiny_config(name="old", workers={"backend": "none"})
    path, run = tmp_path / "config.toml", RunFolder(tmp_path / "old")
    path.write_text(dump(config))
    assert fl_sim("run", "--config", path, "--runs", tmp_path)[0] == 0
    run.manifest.write_text("{}")
    pd.read_parquet(run.rounds)[["round"]].to_parquet(run.rounds)
    code, told = fl_sim("run", "--config", path, "--runs", tmp_path)
    assert code == 0, told
