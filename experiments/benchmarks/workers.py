"""What a second attack worker brings: the jobs of one run's captures, done by one worker and by two.

    python -m experiments.benchmarks.workers [--users 12] [--backend local] [--json]

The dispatcher is the one of `fl-sim attack`, a job is one user. The clock runs from the first job's end to the last
one's, so loading torch and the prior is not in it: jobs a second. Two workers of one thread each need two idle cores.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from experiments.benchmarks.engines import CLI, options, seconds

ATTACK = "{user_diffusion={steps=60}}"


def jobs_a_second(run: Path, count: int, backend: str) -> float:
    """The throughput of `count` workers on the captures of `run`."""
    text = (run / "config.toml").read_text()
    config = text.replace('backend = "none"', f'backend = "{backend}"').replace("count = 0", f"count = {count}")
    (run / "config.toml").write_text(config)
    ends = []
    with subprocess.Popen(
        [sys.executable, "-m", "attacker.workers.dispatch", str(run), "--force"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if json.loads(line)["event"] == "done":
                ends.append(time.perf_counter())
    if process.returncode or len(ends) < 3:
        raise SystemExit(f"{len(ends)} jobs were done, the dispatcher ended with {process.returncode}")
    return (len(ends) - count) / (ends[-1] - ends[count - 1])  # each worker's first job may wait for its start


def benchmark(users: int, backend: str) -> dict[str, float]:
    """Jobs a second of one worker and of two, and their ratio."""
    found: dict[str, float] = {}
    for count in (1, 2):
        with tempfile.TemporaryDirectory() as temporary:
            more = {
                "name": "workers",
                "attacks": ATTACK,
                "workers.victims_per_job": "1",
                "federation.engine": "inprocess",
            }
            seconds([*CLI, "run", *options(users, 1, **more)], Path(temporary))
            found[f"{count} workers"] = jobs_a_second(Path(temporary) / "runs" / "workers", count, backend)
    return found | {"ratio": found["2 workers"] / found["1 workers"]}


def main() -> None:
    parser = argparse.ArgumentParser(description="Attack throughput with one worker and with two.")
    parser.add_argument("--users", type=int, default=12)
    parser.add_argument("--backend", choices=["ray", "local"], default="local")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args()
    found = benchmark(given.users, given.backend)
    if given.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:10} {value:6.2f}" + ("" if name == "ratio" else " jobs a second"))


if __name__ == "__main__":
    main()
