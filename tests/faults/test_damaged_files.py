"""Files that were cut off or overwritten: the index is rebuilt, weights are named, results are made again."""

import json

import pandas as pd
import pytest
import torch
from command_line import fl_sim, sentence
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from tiny_faces import tiny_config

from attacker.capture.rebuild_index import rebuild_index
from attacker.capture.store import CaptureStore, write_reconstruction
from attacker.observation import Reconstruction
from attacker.priors import eigenfaces
from attacker.priors.prior import SHIPPED, load_prior
from experiments.evaluate import identity_net
from experiments.evaluate.reconstructions import find_reconstructions
from experiments.plan.setup import prepare
from experiments.run.federation import run_federation
from fl_sim.config import ConfigError, dump
from fl_sim.initial_model import initial_model
from fl_sim.runs import RunFolder
from fl_sim.tensors import SUMS, DamagedFile, read_tensors


@pytest.fixture
def config():
    return tiny_config(federation={"rounds": 2}, dataset={"users": 2}, workers={"backend": "none"})


@pytest.fixture
def run(config, tmp_path):
    run = RunFolder(tmp_path / "run")
    run_federation(prepare(config), run)
    run.config.write_text(dump(config))
    return run


def rows(run):
    """The index without what a capture does not tell."""
    lines = [json.loads(line) for line in (run.captures / "index.jsonl").read_text().splitlines()]
    return [{key: row[key] for key in row if key not in {"node", "seconds", "bytes"}} for row in lines]


def spoil(index, number, line):
    lines = index.read_bytes().splitlines()
    lines[number] = line
    index.write_bytes(b"".join(one + b"\n" for one in lines))


@pytest.mark.parametrize("update", ["gradient", "weights"])
def test_an_index_with_damaged_lines_is_rebuilt_from_the_captures(update, tmp_path):
    config = tiny_config(federation={"rounds": 2, "update": update}, dataset={"users": 2})
    run = RunFolder(tmp_path / "run")
    run_federation(prepare(config), run)
    index, before = run.captures / "index.jsonl", rows(run)
    whole = index.read_bytes()
    for number in range(len(before)):
        for line in (b"\0\0\0", b"{}", b'{"round": 1}', b"[" * 9999, b"\xff", b"3"):
            index.write_bytes(whole)
            spoil(index, number, line)
            told = rebuild_index(run)
            assert "had 1 damaged lines" in told
            found = rows(run)
            assert sorted(map(str, found)) == sorted(map(str, before))
            assert [row["status"] for row in found] == ["accepted", "accepted", "finished"] * 2
            assert rebuild_index(run) is None
    index.unlink()
    assert "was missing" in rebuild_index(run)
    assert rows(run) == before


@pytest.fixture(scope="module")
def captured(tmp_path_factory):
    """A captured round of two users, and the bytes of its index."""
    run = RunFolder(tmp_path_factory.mktemp("run"))
    run_federation(prepare(tiny_config(federation={"rounds": 1}, dataset={"users": 2})), run)
    return run, (run.captures / "index.jsonl").read_bytes()


@settings(max_examples=60, deadline=None)
@given(at=st.floats(0, 1), length=st.integers(1, 500), other=st.binary(max_size=40))
def test_garbage_anywhere_in_the_index_loses_no_capture(captured, at, length, other):
    run, whole = captured
    start = int(at * (len(whole) - 1))
    end = min(start + length, len(whole) - 1)  # what follows the last newline counts as cut off by a crash
    (run.captures / "index.jsonl").write_bytes(whole[:start] + b"\0" + other + whole[end:])
    rebuild_index(run)
    store = CaptureStore(run)
    assert store.users(1) == [0, 1]
    assert store.finished_rounds() == [1]


def test_the_rejected_are_lost_with_their_lines_and_only_they(run):
    index = run.captures / "index.jsonl"
    rejected = {"round": 1, "user": 5, "node": "9", "status": "rejected", "reason": "too large", "num_examples": 1,
                "norm": None, "bytes": 3, "seconds": 0.1}  # fmt: skip
    lines = index.read_bytes().splitlines()
    index.write_bytes(b"\n".join([json.dumps(rejected).encode(), b"damaged", *lines, b""]))
    rebuild_index(run)
    assert CaptureStore(run).rejected() == [rejected]
    assert CaptureStore(run).users(1) == [0, 1]


def test_a_run_goes_on_with_a_damaged_index(config, run):
    before = {path: path.read_bytes() for path in run.captures.rglob("*.safetensors")}
    spoil(run.captures / "index.jsonl", 1, b"damaged")
    with pytest.raises(ConfigError, match="rebuilds it"):
        CaptureStore(run).finished_rounds()
    calls = []
    run_federation(
        prepare(tiny_config(federation={"rounds": 3}, dataset={"users": 2})), run, lambda *done: calls.append(done)
    )
    assert calls[0] == (2, 3)  # none of the two rounds was done again
    assert {path: path.read_bytes() for path in before} == before


def test_rounds_that_cannot_be_read_are_named(config, run):
    run.rounds.write_bytes(b"PAR1")
    with pytest.raises(ConfigError, match=r"rounds.parquet is damaged .* remove it"):
        run_federation(prepare(tiny_config(federation={"rounds": 3})), run)
    run.rounds.unlink()
    run_federation(prepare(config), run)
    assert len(pd.read_parquet(run.rounds)) == 2


def cut(path, keep=0.5):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


def test_every_cut_of_a_weights_file_is_named(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file({"a": torch.ones(3), "b": torch.zeros(2, 2)}, path)
    whole = path.read_bytes()
    assert set(read_tensors(path)[0]) == {"a", "b"}
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(DamagedFile, match=rf"w.safetensors is damaged \({size} bytes, .* restore it"):
            read_tensors(path)
    path.write_bytes(whole + b"0")
    with pytest.raises(DamagedFile, match=f"{len(whole) + 1} bytes, its header says {len(whole)}"):
        read_tensors(path)


def test_a_known_checksum_finds_damage_that_the_form_does_not_show(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file({"a": torch.ones(300)}, path)
    import hashlib

    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    (tmp_path / SUMS).write_text(f"{'0' * 64}  other.safetensors\n{digest}  w.safetensors\n")
    read_tensors(path)
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedFile, match=rf"other bytes, SHA-256 .*, SHA256SUMS says {digest[:12]}"):
        read_tensors(path)


def test_the_shipped_weights_are_those_of_their_checksums():
    for folder in (SHIPPED / "synthetic64" / "unet", identity_net.SHIPPED.parent):
        names = [line.split()[1] for line in (folder / SUMS).read_text().splitlines()]
        assert names == [path.name for path in folder.glob("*.safetensors")]
        for name in names:
            read_tensors(folder / name)


@pytest.mark.slow  # imports diffusers
def test_whoever_reads_weights_names_the_file_that_is_cut_off(tmp_path, config):
    weights = tmp_path / "w.safetensors"
    save_file(initial_model(config, 2)[0].state_dict(), weights)
    cut(weights)
    with pytest.raises(ConfigError, match=r"model.weights .*w.safetensors .* is damaged"):
        initial_model(tiny_config(model={"weights": str(weights)}), 2)
    judge = tmp_path / "judge.safetensors"
    judge.write_bytes(identity_net.SHIPPED.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"judge.safetensors is damaged \(.* bytes, its header says"):
        identity_net.load_net(judge)
    space = tmp_path / "faces.safetensors"
    space.write_bytes(eigenfaces.encode(eigenfaces.fit(torch.rand(3, 3, 4, 4))))
    cut(space)
    with pytest.raises(DamagedFile, match=r"faces.safetensors is damaged"):
        eigenfaces.read(space)
    shipped, prior = SHIPPED / "synthetic64", tmp_path / "prior"
    for part in ("unet/config.json", "unet/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json"):
        (prior / part).parent.mkdir(parents=True, exist_ok=True)
        (prior / part).write_bytes((shipped / part).read_bytes())
    cut(prior / "unet" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(ValueError, match=r"diffusion_pytorch_model.safetensors is damaged \(.* bytes, its header says"):
        load_prior(str(prior), 64)


def test_a_capture_that_is_cut_off_is_named(run):
    path = run.capture(1, 0)
    cut(path)
    with pytest.raises(DamagedFile, match=r"user-0000.safetensors is damaged"):
        CaptureStore(run).observation(1, 0)
    CaptureStore(run).observation(1, 1)
    spoil(run.captures / "index.jsonl", 0, b"damaged")
    with pytest.raises(DamagedFile, match=r"user-0000.safetensors is damaged"):
        rebuild_index(run)


def test_a_run_that_cannot_go_on_from_its_last_model_names_it(run, tmp_path):
    cut(run.global_model(3))
    path = tmp_path / "more.toml"
    more = tiny_config(federation={"rounds": 3}, dataset={"users": 2}, workers={"backend": "none"}, name="run")
    path.write_text(dump(more))
    run.config.write_text(dump(more))
    code, told = fl_sim("run", "--config", path, "--runs", run.root.parent)
    assert code == 2
    assert "round-0003/global.safetensors is damaged" in sentence(told)


def test_a_damaged_reconstruction_is_named_wherever_among_the_others_it_lies(tmp_path):
    run = RunFolder(tmp_path / "run")
    for user in range(3):
        made = Reconstruction(torch.rand(1, 3, 8, 8), torch.ones(1), 0.0, 0.0)
        write_reconstruction(run, "a", 1, user, made, {"name": "a"})
    run.reconstruction("a", 1, 2).write_bytes(bytes(100))
    with pytest.raises(DamagedFile, match=r"user-0002.safetensors is damaged"):
        find_reconstructions(run, {1: [0, 1, 2]})
