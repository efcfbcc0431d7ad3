"""Kernels launched once, then replayed: a CUDA graph of a function that is called with one shape again and again.

Gradient matching is some hundred small kernels a victim and step. A GPU is through with each before the CPU has
launched the next one, so without this a step takes the time of the launches
(experiments/benchmarks/attack_device.py).
"""

from collections.abc import Callable

import torch
from torch import Tensor

Function = Callable[[Tensor], tuple[Tensor, Tensor]]


class GraphedCallable:
    """`function` of a CUDA tensor, the same values; functions that cannot be recorded are called as they are.

    What it reads beside its argument is fixed at the first call for a shape: models and gradients must not be replaced.
    """

    def __init__(self, function: Function) -> None:
        self._function = function
        self._recordings: dict[torch.Size, Function] = {}

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if x.shape not in self._recordings:
            try:
                self._recordings[x.shape] = record(self._function, x)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError:  # it asks the GPU for a value on the way, as third-party models may
                self._recordings[x.shape] = self._function
        return self._recordings[x.shape](x)


def record(function: Function, example: Tensor) -> Function:
    """A replay of `function` for tensors of the shape of `example`. RuntimeError if it needs a value on the CPU."""
    given = example.clone()
    aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):  # cuDNN chooses its algorithms, cuBLAS takes its memory: not to be recorded
        for _ in range(2):
            function(given)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        first, second = function(given)

    def replay(x: Tensor) -> tuple[Tensor, Tensor]:
        given.copy_(x)
        graph.replay()
        return first.clone(), second.clone()

    return replay
