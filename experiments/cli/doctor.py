"""`fl-sim doctor`: what is installed, present and reachable, and what to do about what is not."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fl_sim.runs import versions

LEAST_DISK = 2  # GB: a run of 8 users takes 0.1, a run of 256 users and 100 rounds 30


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's."""

    subject: str
    state: Literal["ok", "optional", "broken"]
    found: str
    remedy: str = ""  # what to do next; empty if all is well


def examine() -> list[Finding]:
    """Look at everything; takes some seconds, since Ray is really started."""
    return [*_packages(), _accelerator(), *_weights(), _disk(), _ray(), _browser()]


def _packages() -> Iterator[Finding]:
    for package, version in versions().items():
        if version == "absent":
            yield Finding(package, "broken", "not installed", "make install")
        else:
            yield Finding(package, "ok", version)


def _accelerator() -> Finding:
    import torch

    if torch.cuda.is_available():
        return Finding("GPU", "ok", f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    remedy = "nothing to do: everything runs on the CPU; a CUDA GPU is taken where there is one"
    return Finding("GPU", "optional", f"none; {cores} CPU cores", remedy)


def _weights() -> Iterator[Finding]:
    from attacker.priors.prior import load_prior
    from experiments.evaluate import embedders, image_metrics
    from fl_sim.config import Leakage

    for subject, load in (
        ("prior synthetic64", lambda: load_prior("synthetic64", 64)),
        ("embedder synthetic", lambda: embedders.open_embedder(Leakage())),
    ):
        try:
            load()
            yield Finding(subject, "ok", "shipped weights load")
        except ValueError as error:
            yield Finding(subject, "broken", str(error), "install the package again")
    if image_metrics.lpips_weights(Leakage()) is not None:
        yield Finding("LPIPS weights", "ok", "present")
    else:
        yield Finding(
            "LPIPS weights", "optional", "absent, the lpips column stays empty", "-o leakage.lpips_weights=FOLDER"
        )


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    if free < LEAST_DISK:
        return Finding(
            "disk", "broken", f"{free:.1f} GB free here", f"free {LEAST_DISK} GB, or give --runs another disk"
        )
    return Finding("disk", "ok", f"{free:.0f} GB free here")


def _ray() -> Finding:
    """In a process of its own: Ray prints a lot and leaves threads."""
    address = os.environ.get("RAY_ADDRESS", "local")
    few = ", num_cpus=0" * (address == "local")  # else Ray starts a worker a core, which is not asked of it
    code = (
        "import ray;"
        f"ray.init(address={address!r}, include_dashboard=False, log_to_driver=False, logging_level='ERROR'{few});"
        "r = ray.cluster_resources(); print(int(r.get('CPU', 0)), r.get('GPU', 0)); ray.shutdown()"
    )
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=90, check=True)
        cpus, gpus = done.stdout.split()[-2:]
    except (subprocess.SubprocessError, ValueError):
        remedy = "unset RAY_ADDRESS, or work without: -o workers.backend=local --engine inprocess"
        return Finding("Ray", "broken", f"not reachable at {address!r}", remedy)
    held = "starts here" if few else f"{cpus} CPUs, {float(gpus):g} GPUs"
    return Finding("Ray", "ok", f"{address!r}: {held}")


def _browser() -> Finding:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return Finding("browser for the report's test", "ok", Path(path).name)
    return Finding(
        "browser for the report's test", "optional", "none", "install Debian's chromium; that test is skipped"
    )
