"""A Flower deployment of this project's apps: SuperLink, SuperNodes, TLS and node authentication.

`fl-sim up` and `fl-sim down` start and stop one on this machine, docker-compose.yml starts the same commands in
containers, and the engine `deployment` runs experiments on it. All that it needs lies in one state folder:

STATE/public/ca.crt                              whom all sides trust
      superlink/{tls.key,tls.crt,superexec.secret}   what the SuperLink is known by
      nodes/user-0000{,.pub}                     what the SuperNode of each user is known by
      ray/token                                  who knows it may use the Ray cluster of docker-compose.yml
      flower/  connections/                      homes of Flower's programs
      logs/NAME.log  deployment.json             what `fl-sim up` has started
"""

import os
from dataclasses import dataclass
from pathlib import Path


class DeploymentError(RuntimeError):
    """What went wrong with a deployment, in one sentence."""


@dataclass(frozen=True)
class State:
    """The paths of one state folder; nothing is created until it is written."""

    root: Path

    @property
    def authority(self) -> Path:
        return self.root / "public" / "ca.crt"

    @property
    def tls_key(self) -> Path:
        return self.root / "superlink" / "tls.key"

    @property
    def tls_certificate(self) -> Path:
        return self.root / "superlink" / "tls.crt"

    @property
    def superexec_secret(self) -> Path:
        return self.root / "superlink" / "superexec.secret"

    @property
    def ray_token(self) -> Path:
        return self.root / "ray" / "token"

    @property
    def record(self) -> Path:
        return self.root / "deployment.json"

    def node_key(self, user: int) -> Path:
        return self.root / "nodes" / f"user-{user:04d}"

    def public_node_key(self, user: int) -> Path:
        return self.root / "nodes" / f"user-{user:04d}.pub"

    def node_keys(self) -> list[Path]:
        """The private keys of all users, by user."""
        return sorted(path.with_suffix("") for path in (self.root / "nodes").glob("user-*.pub"))

    def log(self, name: str) -> Path:
        return self.root / "logs" / f"{name}.log"


def state_folder() -> State:
    """The state folder of this user: $FL_SIM_STATE, else fl-sim below $XDG_STATE_HOME or ~/.local/state."""
    if told := os.environ.get("FL_SIM_STATE"):
        return State(Path(told).resolve())
    return State(Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state").resolve() / "fl-sim")
