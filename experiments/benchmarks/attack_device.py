"""How well the attack uses its device: users a minute, the share of the matmul peak, and what the time goes into.

    python -m experiments.benchmarks.attack_device [--victims 1 8 32 64] [--models convnet resnet18] [--json]

One row is one job of `user_diffusion` with its default settings on 30-photo updates at 64 px, the shipped prior.
`peak` is a bf16 product of square matrices, measured in the same run; the share is that of the step's multiply-adds
(counted by torch: convolutions and products) over its time. `step` is a step as shipped; on a GPU, `launched` is
one whose kernels are launched one by one instead of replayed (attacker/inversion/cuda_graph.py), and `busy` the share
of a step's time during which kernels run. `--profile` prints the kernels that take the most time of the last row's
step.
"""

import argparse
import itertools
import json
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from attacker.attack import Attacker
from attacker.attacks import user_diffusion
from attacker.inversion.cuda_graph import GraphedCallable
from attacker.priors.prior import load_prior
from attacker.workers.pool import settle_process
from experiments.benchmarks.attack_speed import CLASSES, make_case
from fl_sim.seeds import generator

SIZE, PHOTOS, WARM = 64, 30, 3


def settle(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a product of square matrices, the best of several."""
    side = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    best = 0.0
    for _ in range(10):
        settle(device)
        started = time.perf_counter()
        for _ in range(4):
            a @ b
        settle(device)
        best = max(best, 8 * side**3 / (time.perf_counter() - started))
    return best


class Flop(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the floating-point operations of convolutions and products, by torch's own formulas.

    Not FlopCounterMode: what that hooks into autograd to know the modules does not take part in `torch.autograd.grad`.
    """

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.total += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out)
        return out


class Job:
    """One job: `victims` users of one round."""

    def __init__(self, name: str, victims: int, device: torch.device) -> None:
        case = make_case(name, SIZE, PHOTOS)
        self.observations, self.device = [case.observation] * victims, device
        prior = load_prior("synthetic64", SIZE, device)
        self.attacker = Attacker(case.model.to(device), SIZE, CLASSES, prior, device)

    def run(self, steps: int, mark: Callable[[int], None]) -> torch.Tensor:
        """`steps` steps of the attack, `mark(step)` after each; the first victim's images."""
        sources = [generator(0, "attack", user) for user in range(len(self.observations))]
        settings = user_diffusion.Settings(steps=steps)
        found = user_diffusion.attack(self.observations, self.attacker, settings, sources, lambda step, _: mark(step))
        return found[0].images

    def step_seconds(self, steps: int) -> float:
        """Mean wall time of a step, without the first ones."""
        marks = {}

        def mark(step: int) -> None:
            if step in (WARM, steps):
                settle(self.device)
                marks[step] = time.perf_counter()

        self.run(steps, mark)
        return (marks[steps] - marks[WARM]) / (steps - WARM)

    def step_flop(self) -> float:
        """Floating-point operations of one step, two for a multiply-add."""
        counts = []
        for steps in (1, 2):
            with launched(), Flop() as counter:  # type: ignore[no-untyped-call]
                self.run(steps, lambda step: None)
            counts.append(counter.total)
        return float(counts[1] - counts[0])


def launched() -> Any:
    """Within it, kernels are launched one by one."""
    return mock.patch.object(GraphedCallable, "__call__", lambda self, x: self._function(x))


def kernels(job: Job, steps: int) -> tuple[float, list[tuple[str, float]]]:
    """The GPU's kernel time a step in seconds, and the kernels that take the most of it as shares."""

    def mark(step: int) -> None:
        if step == WARM:
            settle(job.device)
            profiler.start()
        if step == WARM + steps:
            settle(job.device)
            profiler.stop()

    profiler = profile(activities=[ProfilerActivity.CUDA])
    job.run(WARM + steps, mark)
    kinds = profiler.key_averages()
    spent = {kind.key: kind.self_device_time_total / 1e6 for kind in kinds}
    total = sum(spent.values())
    most = sorted(spent.items(), key=lambda item: -item[1])[:12]
    return total / steps, [(name, seconds / max(total, 1e-12)) for name, seconds in most]


def measure(name: str, victims: int, device: torch.device, peak: float, steps: int) -> dict[str, Any]:
    """One row, and the kernels that take the most time under `kernels`."""
    job = Job(name, victims, device)
    seconds, flop = job.step_seconds(steps), job.step_flop()
    whole = user_diffusion.Settings().steps * seconds
    row: dict[str, Any] = {
        "model": name,
        "victims": victims,
        "step_s": seconds,
        "users_per_minute": 60 * victims / whole,
        "flop_per_step": flop,
        "share_of_peak": flop / seconds / peak,
    }
    if device.type == "cuda":
        with launched():
            row["launched_step_s"] = job.step_seconds(WARM + 3)
        busy, row["kernels"] = kernels(job, 5)
        row["busy"] = busy / seconds
        row["memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--victims", nargs="+", type=int, default=[1, 8, 32, 64])
    parser.add_argument("--models", nargs="+", default=["convnet", "resnet18"])
    parser.add_argument("--steps", type=int, default=33, help=f"of which the first {WARM} are not timed")
    parser.add_argument("--profile", action="store_true", help="the kernels of the last row's step (GPU)")
    parser.add_argument("--json", action="store_true", help="a JSON object a row")
    options = parser.parse_args()
    settle_process()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    peaks = {dtype: matmul_peak(device, dtype) for dtype in (torch.bfloat16, torch.float32)}
    bf16, fp32 = peaks[torch.bfloat16], peaks[torch.float32]
    if not options.json:
        card = torch.cuda.get_device_name() if device.type == "cuda" else "one CPU thread"
        print(f"{card}: {bf16 / 1e12:.3g} TFLOP/s in bf16, {fp32 / 1e12:.3g} in float32")
        print("model     victims       step   launched  busy users/min of the peak", flush=True)
    row: dict[str, Any] = {}
    for name, victims in itertools.product(options.models, options.victims):
        row = measure(name, victims, device, bf16, options.steps)
        if options.json:
            print(json.dumps({**row, "peak_bf16": bf16, "peak_fp32": fp32}), flush=True)
            continue
        slow = f"{row['launched_step_s'] * 1e3:7.1f} ms" if "launched_step_s" in row else "-"
        busy = f"{row['busy']:5.0%}" if "busy" in row else "-"
        print(f"{name:9s} {victims:7d} {row['step_s'] * 1e3:7.1f} ms {slow:>10s} {busy:>5s}", end="")
        print(f" {row['users_per_minute']:9.1f} {row['share_of_peak']:11.2%}", flush=True)
    if options.profile:
        for kernel, share in row.get("kernels", []):
            print(f"{share:6.1%}  {kernel[:110]}")


if __name__ == "__main__":
    main()
