import json
import math
import stat

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from attacker.capture.store import Capture, CaptureStore, read_attack_table, read_reconstruction, write_reconstruction
from attacker.observation import Reconstruction, pixels
from fl_sim.runs import RunFolder
from fl_sim.tensors import DamagedFile, read_tensors

# Names whose alphabetical order is not the model's.
MODEL = {"z.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2), "z.mean": torch.zeros(3)}
UPDATE = {"z.weight": torch.full((2, 3), -0.5), "a.bias": torch.tensor([1e-8, 2.0])}


def capture(user, **facts):
    plain = {"status": "accepted", "reason": "", "num_examples": 5, "norm": 1.0, "bytes": 32, "seconds": 0.1}
    return Capture(user=user, node=2**64 - 1 - user, **{"update": UPDATE, **plain, **facts})


def save_round(store, server_round, captures, update="gradient"):
    store.save_model(server_round, MODEL)
    store.save_round(server_round, captures, update, 0.5, MODEL)
    store.wait()


@pytest.fixture
def store(tmp_path):
    return CaptureStore(RunFolder(tmp_path / "run"))


def test_what_was_captured_is_read_back_in_the_models_order(store):
    save_round(store, 1, [capture(7, label_proportions=[0.25, 0.75])])
    seen = store.observation(1, 7)
    assert (seen.server_round, seen.user, seen.num_examples) == (1, 7, 5)
    assert list(seen.parameters) == list(MODEL)
    assert list(seen.gradient) == list(UPDATE)
    assert all(torch.equal(seen.gradient[name], UPDATE[name]) for name in UPDATE)
    assert seen.label_proportions.tolist() == [0.25, 0.75]


def test_weights_are_read_back_as_the_gradient(store):
    weights = {name: MODEL[name] - 0.5 * UPDATE[name] for name in UPDATE}
    save_round(store, 1, [capture(0, update=weights)], update="weights")
    seen = store.observation(1, 0).gradient
    assert all(torch.allclose(seen[name], UPDATE[name], atol=1e-6) for name in UPDATE)


def test_the_index_tells_every_reply(store):
    rejected = capture(3, status="rejected", reason="too large", update=None)
    unknown = Capture(None, 9, "error", "lost", None, None, 0, None)
    save_round(store, 1, [capture(2), rejected, unknown])
    assert store.finished_rounds() == [1]
    assert store.users(1) == [2]
    assert [(row["user"], row["reason"]) for row in store.rejected()] == [(3, "too large"), (None, "lost")]
    assert store.replies(1)[0] == {
        "round": 1,
        "user": 2,
        "node": "18446744073709551613",
        "status": "accepted",
        "reason": "",
        "num_examples": 5,
        "norm": 1.0,
        "bytes": 32,
        "seconds": 0.1,
    }


def test_an_unfinished_round_is_not_offered(store):
    assert store.finished_rounds() == []
    save_round(store, 1, [capture(0)])
    save_round(store, 2, [])
    index = store.run.captures / "index.jsonl"
    assert store.finished_rounds() == [1, 2]
    whole = index.read_text()
    for cut in range(whole.index('{"round": 2') + 1, len(whole)):
        index.write_text(whole[:cut])
        assert store.finished_rounds() == [1]
        assert store.users(1) == [0]


def test_a_round_that_is_captured_again_replaces_the_old_lines(store):
    save_round(store, 1, [capture(0)])
    save_round(store, 2, [capture(0), capture(1)])
    store.forget_from(2)
    assert store.finished_rounds() == [1]
    save_round(store, 2, [capture(4)])
    assert store.finished_rounds() == [1, 2]
    assert store.users(2) == [4]


def test_files_are_private_and_whole(store):
    save_round(store, 1, [capture(0)])
    folder = store.run.capture(1, 0).parent
    assert stat.S_IMODE(store.run.capture(1, 0).stat().st_mode) == 0o600
    assert sorted(path.name for path in folder.iterdir()) == ["global.safetensors", "user-0000.safetensors"]


def test_a_write_that_fails_is_not_silent(store):
    store.run.root.mkdir(parents=True)
    store.run.captures.write_text("a file where a folder should be")
    store.save_model(1, MODEL)
    with pytest.raises(OSError, match="captures"):
        store.wait()


@settings(deadline=None)
@given(
    loss=st.floats(0, 10) | st.just(math.nan),
    seconds=st.floats(0, 1e4),
    table=st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5) | st.booleans(), max_size=3),
)
def test_reconstructions_are_read_back(tmp_path_factory, loss, seconds, table):
    run = RunFolder(tmp_path_factory.mktemp("run"))
    assert read_attack_table(run, "tv", 1, 2) is None
    made = Reconstruction(torch.rand(2, 3, 4, 4), torch.tensor([0.75, 0.25]), loss, seconds)
    write_reconstruction(run, "tv", 1, 2, made, table)
    found = read_reconstruction(run, "tv", 1, 2)
    assert torch.equal(found.images, made.images)
    assert torch.equal(found.weights, made.weights)
    assert found.matching_loss == loss or (math.isnan(found.matching_loss) and math.isnan(loss))
    assert found.seconds == seconds
    assert read_attack_table(run, "tv", 1, 2) == json.loads(json.dumps(table))


@pytest.mark.parametrize("count", [None, 1, 8])
def test_draws_and_what_was_determined_are_read_back_to_the_bit(tmp_path, count):
    run = RunFolder(tmp_path)
    draws = None if count is None else torch.rand(count, 3, 4, 4)
    determined = None if draws is None else torch.rand(6, 4, 4)[::2]  # not contiguous
    images = torch.rand(1, 3, 4, 4) if draws is None else draws[-1:]
    write_reconstruction(run, "tv", 1, 2, Reconstruction(images, torch.ones(1), 0.1, 2.0, draws, determined), {})
    found = read_reconstruction(run, "tv", 1, 2)
    assert torch.equal(found.images, images)
    if draws is None:
        assert found.draws is None
        assert found.determined is None
    else:
        assert torch.equal(found.draws, draws)
        assert torch.equal(found.determined, determined)


def test_frames_are_read_back_to_eight_bits(tmp_path):
    run, frames = RunFolder(tmp_path), torch.rand(5, 3, 4, 4)
    frames[0, 0, 0, 0] = math.nan
    write_reconstruction(run, "tv", 1, 2, Reconstruction(frames[-1:], torch.ones(1), 0.1, 2.0, frames=frames), {})
    found = read_reconstruction(run, "tv", 1, 2)
    assert torch.equal(pixels(found.frames), pixels(frames))
    assert torch.equal(pixels(found.frames[-1]), pixels(found.images[0]))
    assert read_tensors(run.reconstruction("tv", 1, 2))[0]["frames"].dtype == torch.uint8


def test_a_reconstruction_whose_draws_are_cut_off_is_named(tmp_path):
    run, draws = RunFolder(tmp_path), torch.rand(8, 3, 4, 4)
    write_reconstruction(run, "tv", 1, 2, Reconstruction(draws[:1], torch.ones(1), 0.1, 2.0, draws, draws.mean(0)), {})
    path = run.reconstruction("tv", 1, 2)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DamagedFile, match=r"user-0002.safetensors is damaged"):
        read_reconstruction(run, "tv", 1, 2)


@pytest.mark.parametrize(
    ("shapes", "told"),
    [
        ({"draws": (3, 4, 4)}, r"draws has shape \(3, 4, 4\)"),
        ({"draws": (0, 3, 4, 4)}, r"draws has shape \(0, 3, 4, 4\)"),
        ({"frames": (2, 4, 4)}, r"frames has shape \(2, 4, 4\), needed is \(n, 3, 4, 4\)"),
        ({"draws": (2, 3, 8, 8)}, r"draws has shape \(2, 3, 8, 8\), needed is \(n, 3, 4, 4\)"),
        ({"determined": (1, 3, 4, 4)}, r"determined has shape \(1, 3, 4, 4\), needed is \(3, 4, 4\)"),
    ],
)
def test_draws_that_are_no_pictures_of_the_answers_size_are_refused_where_they_are_made_and_read(
    shapes, told, tmp_path
):
    tensors = {name: torch.zeros(shape) for name, shape in shapes.items()}
    with pytest.raises(ValueError, match=told):
        Reconstruction(torch.zeros(1, 3, 4, 4), torch.ones(1), 0.1, 2.0, **tensors)
    run = RunFolder(tmp_path)
    write_reconstruction(run, "tv", 1, 2, Reconstruction(torch.zeros(1, 3, 4, 4), torch.ones(1), 0.1, 2.0), {})
    path = run.reconstruction("tv", 1, 2)
    written, metadata = read_tensors(path)
    save_file({**written, **tensors}, path, metadata)
    with pytest.raises(DamagedFile, match=rf"user-0002.safetensors is no reconstruction .*{told}"):
        read_reconstruction(run, "tv", 1, 2)
