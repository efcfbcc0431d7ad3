"""docker-compose.yml without Docker: its own commands as native processes, in the order that `depends_on` asks for.

What a container is for is replaced: its paths by folders below one root, its hosts by loopback, its ports by free ones.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import yaml

PROGRAMS = Path(sys.executable).parent
PORTS = ("8000", "6379", "8265", "8001", "9094")


def load(path, variables):
    """The compose file as a dictionary, `${NAME:-default}` replaced."""
    text = re.sub(r"\$\{(\w+):-(\w*)\}", lambda found: variables.get(found[1], found[2]), path.read_text())
    return yaml.safe_load(text)


class Native:
    """The services of a compose file as processes below `root`."""

    def __init__(self, compose, root, image_environment):
        self.services, self.root = compose["services"], root
        self._environment = image_environment
        self._ports = {port: str(_free_port()) for port in PORTS}
        self._running = {}  # service -> its processes
        self._temporary = root / "ray"
        for service in self.services.values():
            for volume in service.get("volumes", []):
                Path(self.translate(volume.split(":")[1])).mkdir(parents=True, exist_ok=True, mode=0o700)

    def translate(self, word, replica=0):
        word = word.replace("0.0.0.0", "127.0.0.1").replace("localhost", "127.0.0.1")
        word = re.sub(r"\b(superlink|head):(?=\d)", "127.0.0.1:", word)
        word = word.replace("/state", str(self.root / "state")).replace("/work/runs", str(self.root / "runs"))
        if "9094" in word and replica:  # replicas have a network each there, and share one here
            return word.replace("9094", str(_free_port()))
        return re.sub(r"\b\d{4}\b", lambda port: self._ports.get(port[0], port[0]), word)

    def run(self, service, command, replica=0, **options):
        """`docker compose run`, or exec: `command` in the environment of `service`."""
        home = self.root / "home" / f"{service}-{replica}"
        home.mkdir(parents=True, exist_ok=True)
        declared = {**self._environment, **self.services[service].get("environment", {})}
        environment = {
            **os.environ,
            **{name: self.translate(str(value)) for name, value in declared.items()},
            "HOME": str(home),
            "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}",
            "RAY_TMPDIR": str(self._temporary),
            "OMP_NUM_THREADS": "1",
        }
        words = [self.translate(word, replica) for word in command]
        return subprocess.Popen(words, env=environment, cwd=self.root, start_new_session=True, **options)

    def start(self, service):
        """Start `service` after what it depends on, as many as its replicas."""
        if service in self._running:
            return
        for other, how in self.services[service].get("depends_on", {}).items():
            self.start(other)
            self._await(other, how["condition"])
        self._running[service] = []
        for replica in range(int(self.services[service].get("deploy", {}).get("replicas", 1))):
            with (self.root / f"{service}-{replica}.log").open("wb") as log:
                process = self.run(service, self.services[service]["command"], replica, stdout=log, stderr=log)
            self._running[service].append(process)

    def alive(self, service):
        return [process.poll() is None for process in self._running[service]]

    def healthy(self, service):
        test = self.services[service]["healthcheck"]["test"]
        assert test[0] == "CMD"
        check = self.run(service, test[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return check.wait(timeout=60) == 0

    def stop(self):
        for process in reversed([one for processes in self._running.values() for one in processes]):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
        for process in [one for processes in self._running.values() for one in processes]:
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _await(self, service, condition, patience=180):
        if condition == "service_completed_successfully":
            codes = [process.wait(timeout=patience) for process in self._running[service]]
            assert codes == [0], self._log(service)
            return
        assert condition == "service_healthy"
        deadline = time.monotonic() + patience
        while not self.healthy(service):
            assert all(self.alive(service)), self._log(service)
            assert time.monotonic() < deadline, self._log(service)
            time.sleep(1)

    def _log(self, service):
        return (self.root / f"{service}-0.log").read_text(errors="replace")[-3000:]


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
