"""The SuperNode of one user: the next key of the state folder that no other SuperNode holds.

Containers of a scaled service are all alike; which user one of them is, is decided by a lock on the user's key.
"""

import fcntl
import os

from fl_sim.deployment import DeploymentError, State
from fl_sim.deployment.programs import environment, program


def command(state: State, superlink: str, user: int, users: int, port: int) -> list[str]:
    """The SuperNode of `user`, partition `user` of `users`; its ClientApps connect to `port` of loopback."""
    return [
        program("flower-supernode"),
        *("--superlink", superlink),
        *("--root-certificates", str(state.authority)),
        *("--auth-supernode-private-key", str(state.node_key(user))),
        *("--node-config", f"partition-id={user} num-partitions={users}"),
        *("--port", str(port)),
    ]


def become(state: State, superlink: str, port: int) -> None:
    """Turn this process into the SuperNode of a user whom nobody is yet; DeploymentError if all are taken."""
    keys = state.node_keys()
    for user, key in enumerate(keys):
        handle = os.open(key, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            continue
        os.set_inheritable(handle, True)  # the lock lives as long as the SuperNode
        arguments = command(state, superlink, user, len(keys), port)
        os.execve(arguments[0], arguments, environment(None))
    raise DeploymentError(
        f"all {len(keys)} keys below {state.root / 'nodes'} are taken by other SuperNodes; make more, or start fewer"
    )
