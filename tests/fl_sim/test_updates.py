import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fl_sim import updates

SHAPES = {"a": (2, 3), "b": (4,), "c": ()}


def an_update(seed: int = 0) -> updates.Update:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def same(a, b, tolerance=0.0):
    return a.keys() == b.keys() and all(torch.allclose(a[k], b[k], rtol=0, atol=tolerance) for k in a)


def test_unflatten_undoes_flatten():
    update = an_update()
    assert same(updates.unflatten(updates.flatten(update), update), update)
    with pytest.raises(ValueError, match="does not fill"):
        updates.unflatten(torch.zeros(3), update)


@given(st.integers(0, 99), st.floats(1e-3, 10))
def test_weights_tell_the_gradient_that_made_them(seed, lr):
    parameters, gradient = an_update(seed), an_update(seed + 1)
    weights = updates.apply_gradient(parameters, gradient, lr)
    assert same(updates.to_gradient(parameters, weights, lr), gradient, tolerance=1e-5 / min(lr, 1))


def test_the_norm_is_that_of_the_whole_and_cannot_overflow():
    assert updates.norm(an_update()) == pytest.approx(float(updates.flatten(an_update()).norm()), rel=1e-6)
    assert updates.norm({"a": torch.tensor([3e30, 4e30])}) == pytest.approx(5e30)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda u: u.pop("b"), "missing key 'b'"),
        (lambda u: u.update(extra=torch.zeros(1)), "unexpected key 'extra'"),
        (lambda u: u.update(b=torch.zeros(5)), "shape"),
        (lambda u: u.update(b=u["b"].double()), "dtype"),
        (lambda u: u["a"].fill_(math.nan), "NaN"),
        (lambda u: u["a"].fill_(math.inf), "Inf"),
    ],
)
def test_what_cannot_be_a_reply_is_named(change, told):
    update = an_update()
    assert updates.problem(update, an_update(1)) is None
    change(update)
    assert told in updates.problem(update, an_update(1))
