"""Laws of replayed kernels. They need a GPU."""

import pytest
import torch
from torch import Tensor

from attacker.inversion.cuda_graph import GraphedCallable

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: CUDA graphs are of GPUs alone")


def test_a_replay_gives_what_the_function_gives_for_every_input() -> None:
    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        return x.square().sum((1, 2, 3)), torch.sin(x)

    recorded = GraphedCallable(function)
    for size in (4, 4, 8, 4):
        x = torch.rand(3, 3, size, size, device="cuda")
        for replayed, called in zip(recorded(x), function(x), strict=True):
            assert torch.equal(replayed, called)


def test_a_replay_does_not_change_what_an_earlier_one_returned() -> None:
    recorded = GraphedCallable(lambda x: (x + 1, x * 2))
    zeros = recorded(torch.zeros(2, device="cuda"))[0]
    recorded(torch.ones(2, device="cuda"))
    assert zeros.tolist() == [1, 1]


def test_a_function_that_asks_for_a_value_on_the_way_is_called_as_it_is() -> None:
    recorded = GraphedCallable(lambda x: (x * float(x.sum()), x))
    for value in (1.0, 3.0):
        assert recorded(torch.full((2,), value, device="cuda"))[0].tolist() == [2 * value**2] * 2
