"""The same federation on each engine, with a whole experiment's attacks, and as plain Flower: what a user waits for.

    python -m experiments.benchmarks.engines [--users 4] [--rounds 3] [--json]

Each is a process of its own, from its start to its end: seconds of wall time. `plain Flower` is FedAvg on Flower's
simulation with the same clients, no malicious server, no attack, no report; the first of the others do no more than
capture. `deployment` is `fl-sim up` (not counted), a run over TLS on loopback, `fl-sim down`. `attacked` is that of
`simulation` with two short attacks a round, the leakage table and the report.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

CLI = [sys.executable, "-m", "experiments.cli.app"]
QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "RAY_USAGE_STATS_ENABLED": "0"}


def options(users: int, rounds: int, **more: str) -> list[str]:
    """`-o` for the config: weights as updates, as plain Flower has them, and photos that are quick to make."""
    keys = {
        "dataset.users": users,
        "dataset.photos": 10,
        "federation.rounds": rounds,
        "federation.update": "weights",
        "attacks": "{}",
        "workers.backend": "none",
        **more,
    }
    return [part for key, value in keys.items() for part in ("-o", f"{key}={value}")]


def seconds(command: list[str], folder: Path) -> float:
    """Wall time of a command, which must succeed."""
    started = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env={**os.environ, **QUIET}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[2:5])} ended with {done.returncode}: {done.stderr[-500:]}")
    return time.perf_counter() - started


def benchmark(users: int, rounds: int, tell: Callable[[str], None] = lambda sentence: None) -> dict[str, float]:
    """Seconds by name."""
    found: dict[str, float] = {}
    attacks = "{user_diffusion={steps=5}, prior_only={steps=5}}"
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)

        def run(name: str, engine: str, **more: str) -> None:
            tell(name)
            keys = options(users, rounds, **{"name": name, "federation.engine": engine, **more})
            found[name] = seconds([*CLI, "run", *keys], folder)

        tell("plain Flower")
        found["plain Flower"] = seconds(
            [sys.executable, "-m", __spec__.name, "--plain", f"{users}", f"{rounds}"], folder
        )
        run("simulation", "simulation")
        run("inprocess", "inprocess")
        run("attacked", "simulation", **{"attacks": attacks, "workers.backend": "local"})
        os.environ["FL_SIM_STATE"] = str(folder / "state")
        seconds([*CLI, "up", "--users", str(users), "--port", "18500"], folder)
        try:
            run("deployment", "deployment")
        finally:
            seconds([*CLI, "down"], folder)
    return found


def plain_flower(users: int, rounds: int) -> None:
    """FedAvg on Flower's simulation engine with the clients of the config, as Flower's own tutorials write it."""
    from flwr.app import ArrayRecord, Context
    from flwr.serverapp import Grid, ServerApp
    from flwr.serverapp.strategy import FedAvg

    from clients.app import client_app
    from fl_sim import engines
    from fl_sim.config import load
    from fl_sim.initial_model import fresh_model

    config = load(None, options(users, rounds)[1::2])
    model = fresh_model(config.model, 2, config.dataset.image_size, config.seed)
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        strategy = FedAvg(fraction_train=1.0, fraction_evaluate=1.0, min_available_nodes=users)
        strategy.start(grid, ArrayRecord(model.state_dict()), num_rounds=rounds)

    engines.run("simulation", server, client_app(lambda context: config), users)


def main() -> None:
    parser = argparse.ArgumentParser(description="One federation on each engine, attacked, and as plain Flower.")
    parser.add_argument("--users", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON object of seconds")
    parser.add_argument("--plain", nargs=2, type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.plain:
        plain_flower(*given.plain)
        return
    found = benchmark(given.users, given.rounds, lambda name: print(name, file=sys.stderr))
    if given.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:14} {value:6.1f} s   {value / found['plain Flower']:5.2f} times plain Flower")


if __name__ == "__main__":
    main()
