"""docker-compose.yml and Dockerfile: they are well formed, keep their promises, and their commands do what they say."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import compose
import pandas as pd
import pytest
import yaml

from fl_sim.deployment import State, native
from fl_sim.runs import RunFolder

PROJECT = Path(__file__).parents[1]
FILE, DOCKERFILE = PROJECT / "docker-compose.yml", PROJECT / "Dockerfile"
PROGRAMS = Path(sys.executable).parent
IMAGE = {"FL_SIM_STATE": "/state"}  # what the Dockerfile sets beyond switched-off telemetry
DAEMONS = {"superlink", "superexec", "supernode", "head", "attack-worker-cpu", "attack-worker-gpu"}


@pytest.fixture(scope="module")
def services():
    return compose.load(FILE, {})["services"]


def test_it_is_valid_by_the_compose_specification():
    checked = subprocess.run(
        [PROGRAMS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", FILE], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout


def test_the_dockerfile_has_no_flaw_that_hadolint_knows():
    if not (PROGRAMS / "hadolint").exists():
        pytest.skip("hadolint is not installed: its wheel is for x86-64 Linux")
    linted = subprocess.run([PROGRAMS / "hadolint", DOCKERFILE], capture_output=True, text=True)
    assert linted.returncode == 0, linted.stdout


def test_nobody_is_root_and_nobody_gains_rights(services):
    for name, service in services.items():
        assert service["user"] == "10001:10001", name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["init"], name
    assert re.findall(r"^USER (.*)$", DOCKERFILE.read_text(), re.M) == ["10001:10001"]


def test_images_are_pinned(services):
    for tag in [service["image"] for service in services.values()] + re.findall(r"FROM (\S+)", DOCKERFILE.read_text()):
        assert re.search(r":\d+\.\d+\.\d+", tag), tag


def test_every_daemon_says_whether_it_is_well(services):
    assert {name for name, service in services.items() if "healthcheck" in service} == DAEMONS


def test_only_the_dashboard_is_published_and_on_loopback(services):
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert published == {"head": ["127.0.0.1:8265:8265"]}
    assert compose.load(FILE, {})["networks"]["federation"]["internal"]


def test_nothing_speaks_without_tls_and_nothing_trusts_a_stranger(services):
    assert "insecure" not in FILE.read_text()
    assert "--enable-supernode-auth" in services["superlink"]["command"]
    for name in ("head", "attack-worker-cpu", "attack-worker-gpu"):
        assert services[name]["environment"]["RAY_AUTH_MODE"] == "token"


def test_private_keys_are_with_their_owners_alone(services):
    mounted = {name: [volume.split(":")[0] for volume in one.get("volumes", [])] for name, one in services.items()}
    holders = {key: {name for name in mounted if key in mounted[name]} for key in ("superlink-keys", "node-keys")}
    assert holders["superlink-keys"] == {"certificates", "superlink", "superexec"}
    assert holders["node-keys"] == {"certificates", "register", "supernode"}
    assert "runs" not in mounted["supernode"] + mounted["superlink"]


def test_profiles_choose_between_cpu_and_gpu(services):
    assert services["attack-worker-cpu"]["profiles"] == ["cpu"]
    assert services["attack-worker-gpu"]["profiles"] == ["gpu"]
    (device,) = services["attack-worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    assert services["attack-worker-gpu"]["command"] == services["attack-worker-cpu"]["command"]


def test_one_variable_scales_the_users():
    services = compose.load(FILE, {"FL_SIM_USERS": "7"})["services"]
    assert services["supernode"]["deploy"]["replicas"] == 7
    assert services["certificates"]["command"][4:6] == ["--users", "7"]


def test_fl_sim_up_starts_the_same(services):
    """What the native deployment asks of Flower, the containers ask as well."""
    flags = {word.split("=")[0] for word in services["superlink"]["command"] if word.startswith("--")}
    ours = {word for word in native.superlink_command(State(Path("/s")), "h", 1) if word.startswith("--")}
    assert flags - ours == {"--database"}
    assert ours <= flags
    flags = {word.split("=")[0] for word in services["superexec"]["command"] if word.startswith("--")}
    ours = {word for word in native.superexec_command(State(Path("/s")), "h:1") if word.startswith("--")}
    assert flags - ours == {"--health-server-address"}
    assert ours <= flags


SMALL = [
    "dataset.photos=4", "dataset.image_size=32", "model.name=lenet", "federation.rounds=3", "leakage.gallery_size=8",
    "threat_model.public_people=8", "attacks={inverting_gradients={steps=2}, prior_only={steps=2}}",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.skipif("FL_SIM_LONG_TESTS" not in os.environ, reason="takes 7 minutes: set FL_SIM_LONG_TESTS=1")
def test_its_commands_run_an_experiment_that_leaks_what_the_inprocess_engine_leaks():
    """TLS, node authentication, 4 SuperNodes, 3 rounds, attacks on a Ray cluster of three nodes."""
    root = Path(tempfile.mkdtemp(prefix="fl-"))  # Ray's sockets lie below: a short path
    described = compose.load(FILE, {"FL_SIM_USERS": "4", "FL_SIM_WORKERS": "2", "FL_SIM_WORKER_CPUS": "1"})
    deployed = compose.Native(described, root, IMAGE)
    (documented,) = re.findall(r"exec head (fl-sim run .*)$", FILE.read_text(), re.M)
    try:
        for service in ("superexec", "supernode", "attack-worker-cpu"):
            deployed.start(service)
        more = [part for key in [*SMALL, "name=deployed"] for part in ("-o", key)]
        run = deployed.run(
            "head", [*documented.split(), *more], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        said = run.communicate(timeout=900)[0]
        assert run.returncode == 0, said
        assert deployed.alive("supernode") == [True] * 4
        assert deployed.healthy("superexec")
        assert deployed.healthy("supernode")

        here = [sys.executable, "-m", "experiments.cli.app", "run", "--engine", "inprocess", "--workers", "local"]
        more = [part for key in [*SMALL, "name=here", "dataset.users=4", "workers.count=1"] for part in ("-o", key)]
        done = subprocess.run([*here, *more], cwd=root, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, done.stderr
        deployed_table, table = (
            pd.read_parquet(RunFolder(root / "runs" / name).leakage).drop(columns=["run", "seconds"])
            for name in ("deployed", "here")
        )
        assert len(table) > 0
        pd.testing.assert_frame_equal(deployed_table, table, check_exact=True)
    finally:
        deployed.stop()
    shutil.rmtree(root)


def test_the_file_has_no_key_twice():
    class Strict(yaml.SafeLoader):
        pass

    def mapping(loader, node, deep=False):
        keys = [key.value for key, _ in node.value if key.value != "<<"]
        assert len(keys) == len(set(keys)), keys
        return yaml.SafeLoader.construct_mapping(loader, node, deep)

    Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    assert yaml.load(FILE.read_text(), Strict)
