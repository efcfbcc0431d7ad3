import torch
from hypothesis import given
from hypothesis import strategies as st

from fl_sim import seeds

names = st.lists(st.one_of(st.integers(0, 99), st.text("abc", min_size=1)), max_size=3)


@given(st.integers(0, 2**31), names)
def test_a_stream_depends_on_seed_and_names_alone(seed, path):
    assert torch.equal(
        torch.randn(3, generator=seeds.generator(seed, *path)), torch.randn(3, generator=seeds.generator(seed, *path))
    )


def test_neighbouring_streams_are_unrelated():
    draws = torch.stack([torch.randn(1000, generator=seeds.generator(0, "user", i)) for i in range(20)])
    assert (torch.corrcoef(draws) - torch.eye(20)).abs().max() < 0.15
    assert len({seeds.derive(s, i) for s in range(50) for i in range(50)}) == 2500


def test_the_global_generator_stays_untouched():
    before = torch.get_rng_state()
    torch.randn(3, generator=seeds.generator(1, "x"))
    assert torch.equal(before, torch.get_rng_state())
