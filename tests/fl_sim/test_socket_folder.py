"""Ray starts wherever TMPDIR points, or the run does not start."""

import os
import subprocess
import sys

import pytest

from experiments.plan.setup import prepare
from experiments.run import pipeline
from fl_sim import socket_folder
from fl_sim.config import Config, ConfigError


def with_temporary(monkeypatch, folder, usual="/tmp"):
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.setattr(socket_folder, "USUAL", str(usual))


def test_a_short_folder_is_used_and_of_a_long_one_the_usual(monkeypatch, tmp_path):
    with_temporary(monkeypatch, "/var/tmp")
    assert socket_folder.socket_folder() == "/var/tmp"
    for name in ("long" * 20, "é" * 14):  # 33 bytes with /tmp/
        with_temporary(monkeypatch, tmp_path / name)
        assert socket_folder.socket_folder() == "/tmp"


def test_a_run_without_room_for_sockets_is_refused_before_anything_starts(monkeypatch, tmp_path):
    with_temporary(monkeypatch, long := tmp_path / ("long" * 20), tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="set TMPDIR to a shorter folder") as error:
        pipeline.preflight(prepare(Config(name="any")), print)
    assert str(long) in str(error.value)


CONNECT = """
from attacker.workers.ray_pool import connect
ray, temporary = connect(1, "")
print(temporary)
ray.shutdown()
"""


@pytest.mark.slow
def test_ray_starts_below_a_long_tmpdir(tmp_path):
    long = tmp_path / ("long" * 20)
    long.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {"TMPDIR": str(long)}
    said = subprocess.run([sys.executable, "-c", CONNECT], env=environment, check=True, capture_output=True, text=True)
    assert said.stdout.startswith("/tmp/fl-")
