import stat

import pytest

from fl_sim.runs import RunFolder, read_manifest, write_atomically, write_manifest


def test_a_file_is_private_whole_and_leaves_no_trace_of_its_making(tmp_path):
    path = tmp_path / "folder" / "file"
    write_atomically(path, b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_failed_write_keeps_the_old_content(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with pytest.raises(TypeError):
        write_atomically(path, "not bytes")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_manifest_has_versions_and_facts(tmp_path):
    run = RunFolder(tmp_path / "run")
    write_manifest(run, seed=3)
    manifest = read_manifest(run)
    assert manifest["seed"] == 3
    assert manifest["versions"]["torch"] != "absent"
