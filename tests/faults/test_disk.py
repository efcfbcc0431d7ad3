"""The disk is full, or cannot be written at all: one sentence, and the same command goes on when that is mended."""

import contextlib
import resource
import subprocess

import pytest
import tomli_w
from command_line import fl_sim, sentence
from processes import without_privileges
from tiny_faces import tiny_config

from attacker.capture.store import CaptureStore
from experiments.plan.setup import prepare
from experiments.run.federation import run_federation
from fl_sim.runs import RunFolder

CONFIG = {"federation": {"rounds": 3}, "dataset": {"photos": 2}, "workers": {"backend": "none"}}


@contextlib.contextmanager
def files_of_at_most(size):
    """The kernel refuses to let any file grow beyond `size` bytes (EFBIG), as it refuses on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def files(run):
    return {str(path.relative_to(run.root)): path.read_bytes() for path in run.captures.rglob("*.safetensors")}


@pytest.fixture
def mount(tmp_path):
    """`mount(*options)`: a file system of its own, as real as it gets; skips where mounting is not allowed."""
    mounted = []

    def mount(*options):
        folder = tmp_path / f"mount-{len(mounted)}"
        folder.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", folder], capture_output=True, check=False)
        if done.returncode:
            pytest.skip("needs the right to mount a tmpfs")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", folder], check=True)


def test_a_disk_that_fills_up_stops_the_run_which_goes_on_when_there_is_room(tmp_path, mount):
    config = tiny_config(**CONFIG)
    whole = RunFolder(tmp_path / "whole")
    run_federation(prepare(config), whole)
    disk = mount("-o", "size=60k")
    with pytest.raises(OSError, match="No space left") as full:
        run_federation(prepare(config), RunFolder(disk / "run"))
    assert full.value.filename.startswith(str(disk))
    finished = CaptureStore(RunFolder(disk / "run")).finished_rounds()
    assert finished in ([1], [1, 2])  # it did fill up in the middle
    subprocess.run(["mount", "-o", "remount,size=2m", disk], check=True)
    run_federation(prepare(config), RunFolder(disk / "run"))
    assert files(RunFolder(disk / "run")) == files(whole)


def test_a_write_that_is_cut_off_leaves_the_round_before_it_whole(tmp_path):
    config = tiny_config(**CONFIG)
    whole, run = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "run")
    run_federation(prepare(config), whole)
    # Captures fit below this size, the index does with the lines of one round only.
    with files_of_at_most((whole.captures / "index.jsonl").stat().st_size // 2), pytest.raises(OSError, match="large"):
        run_federation(prepare(config), run)
    assert CaptureStore(run).finished_rounds() in ([], [1])
    run_federation(prepare(config), run)
    assert files(run) == files(whole)


def write_config(folder, **sections):
    path = folder / "tiny.toml"
    path.write_text(tomli_w.dumps(tiny_config(**{**CONFIG, **sections}).model_dump(mode="json", exclude_none=True)))
    return path


def test_the_command_line_names_the_file_for_which_there_was_no_room(tmp_path, mount):
    disk = mount("-o", "size=8k")
    code, told = fl_sim("run", "--config", write_config(tmp_path), "--runs", disk)
    assert code == 1
    assert sentence(told).startswith(f"No space left on device: {disk}")


def test_a_read_only_mount_is_one_sentence(tmp_path, mount):
    config, disk = write_config(tmp_path), mount("-o", "size=2m")
    assert fl_sim("run", "--config", config, "--runs", disk)[0] == 0
    before = (disk / "tiny" / "report.html").read_bytes()
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    for command in (("run", "--config", config, "--runs", disk), ("run", "--config", config, "--runs", disk / "more")):
        code, told = fl_sim(*command)
        assert code == 1
        assert sentence(told).startswith(f"Read-only file system: {disk}")
    assert (disk / "tiny" / "report.html").read_bytes() == before


def test_a_folder_without_the_right_to_write_is_one_sentence(tmp_path):
    config, runs, told = write_config(tmp_path), tmp_path / "runs", tmp_path / "told"
    runs.mkdir()
    runs.chmod(0o555)

    def run():
        code, text = fl_sim("run", "--config", config, "--runs", runs)
        told.write_text(text)
        raise SystemExit(code)

    assert without_privileges(run) == 1
    assert sentence(told.read_text()).startswith("Permission denied: ")
    assert list(runs.iterdir()) == []
