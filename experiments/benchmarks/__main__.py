"""All that running this costs, as ratios measured in one run, beside the committed ones.

    make bench                                       about fifteen minutes on two idle cores
    python -m experiments.benchmarks [--json] [--save]

Every figure is a ratio of two times (or sizes) taken one after the other, so that it says the same on another machine;
the higher, the dearer. More than 10 % above baseline.json is reported, and the command then ends with 1. `--save`
writes what was measured as the new baseline. `attack_speed`, `existing_attacks` and `flower_mechanisms` are commands
of their own.
"""

import argparse
import json
import math
import sys
import tempfile
import timeit
from collections.abc import Callable
from functools import partial
from pathlib import Path

from experiments.benchmarks import engines, judging, plugin_overhead, workers

BASELINE = Path(__file__).with_name("baseline.json")
TOLERANCE = 1.1

Ratios = dict[str, float]


def overhead(users: int) -> Ratios:
    """CPU time of a round with the plugin to one without, and resident memory after the last round to the first."""
    rounds, repeats = max(2, 256 // users), 2 if users < 1000 else 1
    found = plugin_overhead.benchmark(users, rounds, repeats, photos=30, image_size=64)
    memory = found["memory_mib_per_round"]["plugin"]
    return {
        f"a round of {users} users, captured / not": found["cpu_ratio"],
        f"memory of {users} users, last round / first": memory[-1] / memory[0],
    }


def side_by_side() -> Ratios:
    """Whole runs to plain Flower's FedAvg."""
    found = engines.benchmark(users=4, rounds=3)
    plain = found.pop("plain Flower")
    return {f"a run, {name} / plain Flower": value / plain for name, value in found.items()}


def second_worker() -> Ratios:
    """Time of two attack workers to that of one."""
    return {"attacks, 2 workers / 1": 1 / workers.benchmark(users=12, backend="local")["ratio"]}


def capture_size() -> Ratios:
    """Bytes on disk to those of the update's numbers."""
    from attacker.capture.store import CaptureStore
    from fl_sim.runs import RunFolder

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        keys = engines.options(2, 1, **{"name": "size", "federation.engine": "inprocess"})
        engines.seconds([*engines.CLI, "run", *keys], folder)
        run = RunFolder(folder / "runs" / "size")
        update = CaptureStore(run).observation(1, 0).gradient
        numbers = sum(value.numel() * value.element_size() for value in update.values())
        return {"a capture / its update, bytes": run.capture(1, 0).stat().st_size / numbers}


def look_up() -> Ratios:
    """Time to look up a round of 1,000 users among 200 rounds to that among 2, once the index has been read."""
    from attacker.capture.index import Index

    def filled(path: Path, rounds: int) -> Index:
        index = Index(path)
        row = {"user": 0, "node": "1", "status": "accepted", "reason": "", "num_examples": 30, "norm": 1.0}
        for number in range(1, rounds + 1):
            index.append(number, [{**row, "round": number, "user": user} for user in range(1000)])
        index.finished()
        return index

    with tempfile.TemporaryDirectory() as temporary:
        indexes = {rounds: filled(Path(temporary, str(rounds)), rounds) for rounds in (2, 200)}
        fastest = dict.fromkeys(indexes, math.inf)
        for _ in range(100):  # turn about, as a machine's speed wanders
            for rounds, index in indexes.items():
                fastest[rounds] = min(fastest[rounds], timeit.timeit(partial(index.rows, rounds), number=10))
    return {"a round looked up, among 200 / among 2": fastest[200] / fastest[2]}


def leakage() -> Ratios:
    """CPU time of a user's leakage to that of a pass of the face recogniser."""
    return {f"a user judged / {judging.EMBEDDED} photos embedded": judging.benchmark(users=24)["ratio"]}


def start_up() -> Ratios:
    """`fl-sim --help` to a Python that imports typer alone."""

    def fastest(*command: str) -> float:
        return min(engines.seconds([sys.executable, *command], Path()) for _ in range(3))

    return {
        "start-up, fl-sim --help / typer": fastest("-m", "experiments.cli.app", "--help")
        / fastest("-c", "import typer")
    }


PARTS: list[Callable[[], Ratios]] = [
    start_up,
    capture_size,
    look_up,
    leakage,
    lambda: overhead(32),
    lambda: overhead(256),
    lambda: overhead(1000),
    side_by_side,
    second_worker,
]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmarks", description="What running this costs.")
    parser.add_argument("--json", action="store_true", help="print one JSON object of ratios")
    parser.add_argument("--save", action="store_true", help="write the ratios as the new baseline")
    given = parser.parse_args()
    before: Ratios = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    now: Ratios = {}
    for part in PARTS:
        for name, ratio in part().items():
            now[name] = round(ratio, 3)
            against = f"{before[name]:8.2f}" if name in before else "       -"
            print(f"{name:45} {ratio:8.2f} {against}", file=sys.stderr if given.json else sys.stdout, flush=True)
    if given.json:
        print(json.dumps(now))
    if given.save:
        BASELINE.write_text(json.dumps(now, indent=2) + "\n")
        return 0
    dearer = [name for name in now if name in before and now[name] > TOLERANCE * before[name]]
    for name in dearer:
        print(f"dearer than the baseline: {name} is {now[name]:.2f}, was {before[name]:.2f}", file=sys.stderr)
    return 1 if dearer else 0


if __name__ == "__main__":
    sys.exit(main())
