import pytest
import torch
from external_nets import Net, attended, normed, tied
from torch import nn

from fl_sim.state_dicts import Misfit, ModelTensors


def same(left, right):
    return list(left) == list(right) and all(torch.equal(left[name], right[name]) for name in left)


def floats(network):
    return {name: value for name, value in network.state_dict().items() if value.is_floating_point()}


def as_given(state):
    return state


def as_doubles(state):
    return {name: value.double() for name, value in state.items()}


def as_list(state):
    return {str(number): value for number, value in enumerate(state.values())}


def behind(*prefixes):
    return lambda state: {"".join(prefixes) + name: value for name, value in state.items()}


def backwards(state):
    return dict(reversed(state.items()))


@pytest.mark.parametrize("factory", [Net, normed, tied, attended])
@pytest.mark.parametrize(
    "given",
    [as_given, as_doubles, as_list, backwards, behind("module."), behind("_orig_mod.", "module."), behind("net.")],
)
def test_a_state_dict_is_read_whatever_its_names(factory, given):
    network = factory()
    fitted = ModelTensors(network).fit(given(network.state_dict()))
    assert same(fitted.values, floats(network))
    assert fitted.unknown == ()
    assert bool(fitted.notes) == (next(iter(given(network.state_dict()))) not in network.state_dict())


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile])
def test_wrapped_models_and_plain_ones_read_each_other(wrap):
    network = Net()
    wrapped = wrap(network)
    assert same(ModelTensors(network).fit(wrapped.state_dict()).values, network.state_dict())
    assert same(ModelTensors(wrapped).fit(network.state_dict()).values, wrapped.state_dict())
    network.conv1 = torch.compile(network.conv1)
    assert same(ModelTensors(Net()).fit(network.state_dict()).values, Net().state_dict())


def frozen():
    network = Net()
    network.conv1.requires_grad_(False)
    return network


@pytest.mark.parametrize(
    ("factory", "given", "told"),
    [
        (normed, lambda network: list(floats(network).values()), "without counters"),
        (normed, lambda network: list(network.parameters()), "the parameters in"),
        (tied, lambda network: list(network.parameters()), "the parameters in"),
        (frozen, lambda network: [p for p in network.parameters() if p.requires_grad], "that are trained"),
        (Net, lambda network: list(network.head.parameters()), "the last 2 parameters"),
    ],
)
def test_arrays_without_names_are_taken_by_order_and_shape(factory, given, told):
    network = factory()
    arrays = given(network)
    fitted = ModelTensors(network).fit({str(number): value for number, value in enumerate(arrays)})
    own = network.state_dict()
    assert all(torch.equal(own[name], value) for name, value in fitted.values.items())
    assert len(fitted.values) >= len(arrays)  # a tie is read under all its names
    assert told in fitted.notes[0]


def test_what_does_not_fit_is_said():
    tensors, state = ModelTensors(Net()), Net().state_dict()
    assert tensors.fit({**state, "other": torch.ones(1)}).unknown == ("other",)
    assert tensors.fit({"other": torch.ones(1)}).values == {}
    for wrong, told in (
        ({"head.bias": torch.ones(3)}, r"'head.bias' has shape \(3,\), expected \(2,\)"),
        ({"head.bias": torch.ones(2, dtype=torch.int8)}, "has dtype torch.int8, expected floating point"),
        ({"head.bias": torch.ones(2, dtype=torch.complex64)}, "has dtype torch.complex64, expected floating point"),
        ({**state, **behind("module.")(state)}, "it holds 'conv1.weight' twice"),
        (as_list(state) | {"0": torch.ones(3)}, "6 arrays have no names"),
        ({"0": torch.ones(3)}, "1 arrays have no names"),
    ):
        with pytest.raises(Misfit, match=told):
            tensors.fit(wrong)


def test_a_layer_that_is_called_module_keeps_its_name():
    network = nn.Sequential()
    network.add_module("module", nn.Linear(2, 2))
    network.add_module("module2", nn.Linear(2, 2))
    assert same(ModelTensors(network).fit(network.state_dict()).values, network.state_dict())
    both = nn.ModuleDict({"a": nn.Linear(2, 2)})
    both.add_module("module", nn.ModuleDict({"a": nn.Linear(2, 2)}))  # bare, the two have one name
    assert same(ModelTensors(both).fit(both.state_dict()).values, both.state_dict())
