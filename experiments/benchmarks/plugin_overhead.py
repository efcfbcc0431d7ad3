"""What the capture costs a round: a federation with the malicious server's plugin and without, in turn.

    python -m experiments.benchmarks.plugin_overhead [--users 256] [--rounds 3] [--repeats 3] [--json]
    python -m experiments.benchmarks.plugin_overhead --users 1000 --of 10000 --rounds 20 --repeats 1 --model lenet \
        --photos 2

All clients run in this process. Per arm and round: wall seconds, CPU seconds of the process (all threads;
the steadier figure where others use the machine), the fastest of the repeats, and resident memory, after each round
and at its peak (Linux). The captures of a run with the plugin are on disk before its clock stops.
"""

import argparse
import json
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Strategy

from attacker.capture.plugin import MaliciousServer
from attacker.capture.reply_checks import ReplySchema
from attacker.capture.store import CaptureStore
from clients.app import client_app
from clients.user import Faces, User
from fl_sim import engines, seeds
from fl_sim.config import Config, Dataset, parse
from fl_sim.federation.protocol import Channel
from fl_sim.federation.strategy import FedSGD
from fl_sim.initial_model import fresh_model
from fl_sim.runs import RunFolder
from fl_sim.threads import one_thread


@dataclass
class Timing:
    """One run of one arm."""

    wall: float = 0.0  # seconds, all rounds
    cpu: float = 0.0  # seconds, all rounds, all threads
    memory: list[float] = field(default_factory=list)  # MiB resident after each round
    peak: float = 0.0  # MiB resident at most


@dataclass(frozen=True)
class NoiseFaces:
    """Users with photos of noise: the cost of a gradient does not depend on what a photo shows."""

    num_users: int
    photos: int
    image_size: int
    num_classes: int = 2
    num_public: int = 0

    def user(self, partition: int) -> User:
        generator = seeds.generator(0, "benchmark", partition)
        shape = (self.photos, 3, self.image_size, self.image_size)
        faces = Faces(torch.rand(shape, generator=generator), torch.arange(self.photos) % 2, {})
        return User(partition, str(partition), faces, Faces(faces.photos[:1], faces.labels[:1], {}))

    def public(self, index: int) -> Faces:
        raise IndexError(index)


def noise_faces(dataset: Dataset, seed: int) -> NoiseFaces:
    return NoiseFaces(dataset.users, dataset.photos, dataset.image_size)


def measure(config: Config, client: ClientApp, watched: bool) -> Timing:
    """One federation of the config's rounds; `watched` puts the plugin around the strategy."""
    timing = Timing()
    section = config.federation
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        with one_thread(), tempfile.TemporaryDirectory() as folder:
            model = fresh_model(config.model, 2, config.dataset.image_size, config.seed)
            strategy: Strategy = FedSGD(section.learning_rate)
            store = CaptureStore(RunFolder(Path(folder)))
            if watched:
                names = [name for name, _ in model.named_parameters()]
                schema = ReplySchema(names, "gradient", section.learning_rate, section.max_norm)
                strategy = MaliciousServer(strategy, store, schema, section.timeout)
            arrays = ArrayRecord(model.state_dict())
            channel = Channel(grid, config, {})
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
            wall, cpu = time.perf_counter(), time.process_time()
            for server_round in range(1, section.rounds + 1):
                users = channel.of_round(server_round)
                messages = strategy.configure_train(server_round, arrays, ConfigRecord(), users)
                replies = users.send_and_receive(messages, timeout=section.timeout)
                arrays = strategy.aggregate_train(server_round, replies)[0] or arrays
                del replies
                timing.memory.append(_mebibytes("VmRSS"))
            store.wait()
            timing.peak = _mebibytes("VmHWM")
            timing.wall, timing.cpu = time.perf_counter() - wall, time.process_time() - cpu

    engines.run("inprocess", server, client, config.dataset.users)
    return timing


def benchmark(
    users: int, rounds: int, repeats: int, photos: int, image_size: int, of: int = 0, model: str = "convnet"
) -> dict[str, Any]:
    """Both arms in turn, after one short run that fills the caches; `of` users in all (0: `users`)."""
    table = {
        "dataset": {
            "name": f"{noise_faces.__module__}:noise_faces",
            "users": max(users, of),
            "photos": photos,
            "image_size": image_size,
        },
        "model": {"name": model},
        "federation": {"engine": "inprocess", "rounds": rounds, "users_per_round": users},
    }
    config = parse(Config, table)
    client = client_app(lambda context: config)
    warm = config.model_copy(update={"federation": config.federation.model_copy(update={"rounds": 1})})
    measure(warm, client, watched=True)
    plain, watched = [], []
    for _ in range(repeats):
        plain.append(measure(config, client, watched=False))
        watched.append(measure(config, client, watched=True))

    def fastest(timings: list[Timing], clock: str) -> float:
        # Of a run's time the least is its own; what is above is other work on the machine.
        return float(min(getattr(timing, clock) for timing in timings)) / rounds

    return {
        "users": users,
        "of": max(users, of),
        "model": model,
        "photos": photos,
        "image_size": image_size,
        "rounds": rounds,
        "repeats": repeats,
        "wall_seconds_per_round": {"plain": fastest(plain, "wall"), "plugin": fastest(watched, "wall")},
        "cpu_seconds_per_round": {"plain": fastest(plain, "cpu"), "plugin": fastest(watched, "cpu")},
        "wall_ratio": fastest(watched, "wall") / fastest(plain, "wall"),
        "cpu_ratio": fastest(watched, "cpu") / fastest(plain, "cpu"),
        "memory_mib_per_round": {"plain": plain[-1].memory, "plugin": watched[-1].memory},
        "peak_mib": {"plain": plain[-1].peak, "plugin": watched[-1].peak},
    }


def _mebibytes(entry: str) -> float:
    """Memory of this process by /proc: VmRSS is resident, VmHWM its peak."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{entry}:"):
            return float(line.split()[1]) / 1024
    return float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description="What the capture costs a round.")
    parser.add_argument("--users", type=int, default=256, help="of a round")
    parser.add_argument("--of", type=int, default=0, help="users in all; 0: those of a round")
    parser.add_argument("--model", default="convnet")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3, help="runs of each arm, in turn")
    parser.add_argument("--photos", type=int, default=30, help="a user")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    result = benchmark(
        options.users, options.rounds, options.repeats, options.photos, options.image_size, options.of, options.model
    )
    if options.json:
        print(json.dumps(result))
        return
    for key, value in result.items():
        print(f"{key:24} {value}")


if __name__ == "__main__":
    main()
