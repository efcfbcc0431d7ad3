"""One attack job: a fixed batch of captured users of one round, reconstructed into the run folder.

A job is (label, round, users): the users in ascending order, at most `workers.victims_per_job` of them.
It depends on the run folder alone, so any process that sees the folder may do it, in any order, once
or twice: the reconstructions are the same. They never travel through Ray or a pipe.
"""

import dataclasses
import hashlib
import json
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from attacker import attacks
from attacker.attack import Attack, Attacker
from attacker.capture.store import CaptureStore, read_attack_table, write_reconstruction
from attacker.inversion.defense_aware import local_training
from attacker.observation import Observation
from attacker.priors import eigenfaces
from attacker.priors.eigenfaces import Eigenfaces
from attacker.priors.prior import Prior, load_prior
from fl_sim import models, seeds, traits
from fl_sim.config import Config, ConfigError, load
from fl_sim.config_errors import in_one_line
from fl_sim.log import Log
from fl_sim.runs import RunFolder, read_manifest
from fl_sim.tensors import DamagedFile, check
from fl_sim.traits import Traits


@dataclass(frozen=True)
class Job:
    """One call of one attack."""

    label: str  # of the attack in the config
    server_round: int
    users: tuple[int, ...]  # ascending


def batches(label: str, server_round: int, users: Sequence[int], size: int) -> list[Job]:
    """The jobs of one attack on one finished round; users are batched in ascending order."""
    ordered = sorted(users)
    return [Job(label, server_round, tuple(ordered[at : at + size])) for at in range(0, len(ordered), size)]


def is_done(run: RunFolder, config: Config, attack: Attack, job: Job) -> bool:
    """Whether every user of the job has a reconstruction by this very attack from this very capture.

    A job with a user missing is redone as a whole, because the composition of a batch shows in the last
    bits of the result. Raises ConfigError for a reconstruction made otherwise.
    """
    done = True
    for user in job.users:
        try:
            stored = read_attack_table(run, job.label, job.server_round, user)
        except (DamagedFile, ValueError):  # as good as none
            stored = None
        if not stored:
            done = False
            continue
        try:
            wanted = recipe(run, config, attack, job.server_round, user)
        except (DamagedFile, OSError):  # of the capture: the job fails alone, and says so
            return False
        if stored != wanted:
            raise ConfigError(_stale(job, user, stored, wanted))
    return done


def recipe(run: RunFolder, config: Config, attack: Attack, server_round: int, user: int) -> dict[str, Any]:
    """All that decides the reconstruction of one user, as JSON; it is stored with the result."""
    table: dict[str, Any] = {
        "name": attack.name,
        **dataclasses.asdict(attack.settings),
        "knowledge": attack.knowledge,
        "defenses": [dict(table) for table in attack.known_tables(config.defenses)],
        "seed": config.seed,
        "victims_per_job": config.workers.victims_per_job,
        "capture": [_digest(path) for path in _captured(run, attack, server_round, user)],
    }
    if traits.asked(config):
        table["defenses"].append({"name": f"dp_{config.protocol.differential_privacy}"})
    plain: dict[str, Any] = json.loads(json.dumps(table, default=str))  # paths to text, tuples to lists
    return plain


def _captured(run: RunFolder, attack: Attack, server_round: int, user: int) -> list[Path]:
    """What was sent to and received from `user` in this round and in the earlier ones that the attack wants."""
    store = CaptureStore(run)
    rounds = [server_round, *store.earlier_rounds(server_round, user, attack.needs.rounds - 1)]
    return [path for number in rounds for path in (store.sent_model(number), run.capture(number, user))]


def _digest(path: Path) -> str:
    """SHA-256 of the content of a safetensors file, whatever order its writer put the header in."""
    check(path)
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")  # the format: header size, JSON header, tensors
    header = json.dumps(json.loads(data[8:start]), sort_keys=True)
    return hashlib.sha256(header.encode() + hashlib.sha256(memoryview(data)[start:]).digest()).hexdigest()


def _stale(job: Job, user: int, stored: dict[str, Any], wanted: dict[str, Any]) -> str:
    changed = [key for key in {**stored, **wanted} if stored.get(key) != wanted.get(key)]
    if changed == ["capture"]:
        what = "from another capture"
    else:
        key = next(key for key in changed if key != "capture")
        what = f"with {key} = {stored.get(key)!r}, now it is {wanted.get(key)!r}"
    return (
        f"attack {job.label!r} already has a reconstruction of user {user} in round {job.server_round} made {what}; "
        "give the changed attack another label, or --force to replace the old results"
    )


class Workbench:
    """What a worker keeps from job to job: config, model, attacks and priors."""

    def __init__(self, root: Path) -> None:
        self.run = RunFolder(root)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @cached_property
    def config(self) -> Config:
        return load(self.run.config)

    @cached_property
    def attacks(self) -> dict[str, Attack]:
        return {label: attacks.load(label, table) for label, table in self.config.attacks.items()}

    @cached_property
    def num_classes(self) -> int:
        classes = read_manifest(self.run).get("num_classes")
        if not isinstance(classes, int):
            raise ConfigError(
                f"{self.run.manifest} does not say num_classes, so another version wrote it; remove it and give "
                "fl-sim attack again, which writes it anew"
            )
        return classes

    @cached_property
    def defenses(self) -> list[Traits]:
        """What the users' defenses are declared to be; only attacks that know them ask for it."""
        stated: Any = read_manifest(self.run).get("defenses")
        try:
            declared = [traits.parse(table) for table in stated]
        except (TypeError, ValueError):
            declared = []
        if len(declared) != len(self.config.defenses):
            raise ConfigError(
                f"{self.run.manifest} does not say what the users' defenses are, so another version wrote it; give "
                "fl-sim attack, which adds it"
            )
        return declared

    @cached_property
    def model(self) -> nn.Module:
        """The architecture under attack; its initial weights do not matter, each observation brings its own."""
        model = self.config.model
        generator = seeds.generator(self.config.seed, "attack", "model")
        size = self.config.dataset.image_size
        network = models.build(model.name, self.num_classes, size, generator, model.batch_norm, model.small_stem)
        return network.to(self.device)

    def prior(self, name: str) -> Prior:
        return loaded_prior(name, self.config.dataset.image_size, self.device)

    def attacker(self, attack: Attack) -> Attacker:
        """What `attack` gets beside the observations; a prior where it needs one."""
        prior = None if attack.needs.prior is None else self.prior(attack.needs.prior)
        size = self.config.dataset.image_size
        frames = self.config.workers.frames
        return Attacker(self.model, size, self.num_classes, prior, self.device, self.faces, frames)

    @cached_property
    def faces(self) -> Eigenfaces | None:
        space = eigenfaces.read(self.run.faces)
        return None if space is None else space.at(self.config.dataset.image_size, self.device)

    def warm(self) -> None:
        """Load what any job may need, while the first round is still being trained.

        But for the face space, which may not be there yet.
        """
        # A broken attack or a missing prior concerns the jobs that need it, and `attempt` tells them.
        with suppress(Exception):
            self.model  # noqa: B018
            for attack in self.attacks.values():
                with suppress(Exception):
                    if attack.needs.prior is not None:
                        self.prior(attack.needs.prior)

    def common(self) -> list[Path]:
        """The files of the run folder that all jobs read."""
        return [path for path in (self.run.config, self.run.manifest, self.run.faces) if path.exists()]

    def inputs(self, job: Job) -> list[Path]:
        """The files of the run folder that `perform` reads."""
        attack = self.attacks[job.label]
        captured = [path for user in job.users for path in _captured(self.run, attack, job.server_round, user)]
        return list(dict.fromkeys(self.common() + captured))  # users of a round have its model in common

    def perform(self, job: Job) -> None:
        """Do the job: one attack call, one reconstruction file a user."""
        attack = self.attacks[job.label]
        reconstructions = attack.run(
            self.observations(job),
            self.attacker(attack),
            attack.settings,
            [seeds.generator(self.config.seed, "attack", job.label, job.server_round, user) for user in job.users],
            lambda step, steps: None,
        )
        if len(reconstructions) != len(job.users):
            raise ValueError(
                f"attack {attack.name!r} returned {len(reconstructions)} reconstructions for {len(job.users)} users"
            )
        for user, reconstruction in zip(job.users, reconstructions, strict=True):
            table = recipe(self.run, self.config, attack, job.server_round, user)
            write_reconstruction(self.run, job.label, job.server_round, user, reconstruction, table)

    def observations(self, job: Job) -> list[Observation]:
        """What the job's attack is told of each of its users."""
        return [self._observation(self.attacks[job.label], job.server_round, user) for user in job.users]

    def _observation(self, attack: Attack, server_round: int, user: int) -> Observation:
        """What is known of `user`, with as many earlier rounds as the attack wants and the store has."""
        store = CaptureStore(self.run)
        rounds = [server_round, *store.earlier_rounds(server_round, user, attack.needs.rounds - 1)]
        known = () if attack.knowledge == "none" else attack.known_traits(self.defenses)
        known += traits.asked(self.config)
        rate = self.config.federation.learning_rate
        now, *before = [
            dataclasses.replace(seen, defenses=known, local=local_training(seen.local, known, rate))
            for seen in (store.observation(number, user) for number in rounds)
        ]
        return dataclasses.replace(now, history=tuple(before))


def loaded_prior(name: str, image_size: int, device: torch.device) -> Prior:
    """`load_prior`, once in this process as long as the files of a folder are the same."""
    files = sorted(path for path in Path(name).rglob("*") if path.is_file())
    return _loaded_prior(name, image_size, device, tuple((path, path.stat().st_mtime_ns) for path in files))


@lru_cache(maxsize=4)  # runs that share a process have it in common
def _loaded_prior(name: str, image_size: int, device: torch.device, files: tuple[tuple[Path, int], ...]) -> Prior:
    return load_prior(name, image_size, device)


def attempt(bench: Workbench, job: Job) -> tuple[float, str | None]:
    """Do the job; its wall time in seconds, and the reason in one line if it raised an exception."""
    log_start(bench.run, job)
    start = time.perf_counter()
    problem = None
    try:
        bench.perform(job)
    except torch.OutOfMemoryError as error:
        share = bench.config.workers.gpus_per_worker
        problem = (
            f"the GPU's memory does not hold the {len(job.users)} users of a job (gpus_per_worker = {share:g}); set "
            f"workers.victims_per_job lower, which shows in the last bits of the results, or gpus_per_worker higher "
            f"({one_line(error)})"
        )
    except Exception as error:  # an attack may raise anything; the other jobs go on
        problem = one_line(error)
    return time.perf_counter() - start, problem


def log_start(run: RunFolder, job: Job) -> None:
    """Say in the log of `run` that a worker has begun the job."""
    Log(run, "worker")("started", label=job.label, round=job.server_round, users=list(job.users))


def one_line(error: Exception) -> str:
    """What went wrong and where, short enough for a sentence."""
    text = in_one_line(error, 300)
    if isinstance(error, ConfigError):
        return text
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {text} ({Path(place.filename).name}, line {place.lineno})"
