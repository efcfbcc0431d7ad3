"""Safetensors files with hostile headers: tensors, or one sentence that names the file."""

import contextlib
import json
import struct

import pytest
import torch
from command_line import fl_sim, sentence
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from tiny_faces import tiny_config

from fl_sim.config import ConfigError
from fl_sim.initial_model import initial_model
from fl_sim.tensors import DamagedFile, read_tensors


def with_header(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(dtype="F32", shape=(2,), start=0, end=8):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


HOSTILE = {
    "nothing": b"",
    "half a length": b"\x08\x00",
    "a huge length": with_header({}, length=2**63),
    "a length beyond the file": with_header({"a": tensor()}, bytes(8), length=10**6),
    "a length within the header": with_header({"a": tensor()}, bytes(8), length=9),
    "no JSON": with_header(b"not json"),
    "no UTF-8": with_header(b"\xff\xfe"),
    "a list": with_header([1, 2]),
    "brackets": with_header(b"[" * 99_999),
    "text for a tensor": with_header({"a": "F32"}, bytes(8)),
    "no offsets": with_header({"a": {"dtype": "F32", "shape": [2]}}, bytes(8)),
    "one offset": with_header({"a": {**tensor(), "data_offsets": [0]}}, bytes(8)),
    "an unknown dtype": with_header({"a": tensor("F31")}, bytes(8)),
    "a wrong dtype": with_header({"a": tensor("F64")}, bytes(8)),
    "a shape that does not fit": with_header({"a": tensor(shape=(3,))}, bytes(8)),
    "a negative shape": with_header({"a": tensor(shape=(-2,))}, bytes(8)),
    "a shape beyond integers": with_header({"a": tensor(shape=(2**40, 2**40))}, bytes(8)),
    "data that overlap": with_header({"a": tensor(), "b": tensor(start=4, end=12)}, bytes(12)),
    "a hole": with_header({"a": tensor(start=8, end=16)}, bytes(16)),
    "too much": with_header({"a": tensor()}, bytes(9)),
    "too little": with_header({"a": tensor()}, bytes(7)),
    "metadata that are no text": with_header({"__metadata__": {"a": 1}}),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_header_is_a_sentence_that_names_the_file(kind, tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(HOSTILE[kind])
    with pytest.raises(DamagedFile, match=r"w.safetensors is damaged \(") as error:
        read_tensors(path)
    assert len(str(error.value).splitlines()) == 1


WHOLE = save({"a": torch.ones(2, 3), "b": torch.zeros(2, dtype=torch.int64)}, {"facts": "{}"})


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(WHOLE)), st.binary(max_size=9), st.integers(0, 9))
def test_damage_anywhere_gives_tensors_or_a_sentence(tmp_path_factory, at, other, skip):
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    path.write_bytes(WHOLE[:at] + other + WHOLE[at + skip :])
    with contextlib.suppress(DamagedFile):
        read_tensors(path)


@pytest.mark.parametrize(
    "state",
    [{}, {"a": torch.ones(2)}, {"2.weight": torch.ones(8, 48)}, {"2.weight": torch.ones(8, 48, dtype=torch.complex64)}],
)
def test_weights_of_another_model_are_a_sentence(state, tmp_path):
    (tmp_path / "w.safetensors").write_bytes(save(state))
    with pytest.raises(ConfigError, match=r"model.weights .* does not fit model") as error:
        initial_model(tiny_config(model={"weights": str(tmp_path / "w.safetensors")}), 2)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("kind", ["nothing", "a huge length", "brackets", "an unknown dtype"])
@pytest.mark.parametrize("which", ["update", "weights"])
def test_hostile_tensors_are_a_sentence_at_the_command_line(kind, which, tmp_path):
    from external_nets import Net

    files = {"update": save(Net().state_dict()), "weights": save(Net().state_dict()), which: HOSTILE[kind]}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    options = [part for name in files for part in (f"--{name}", tmp_path / name)]
    more = ("--model", "external_nets:Net", "--num-examples", 3, "--image-size", 32, "--out", tmp_path / "out")
    code, told = fl_sim("invert", *options, *more)
    assert code == 2
    assert f"{tmp_path / which} " in sentence(told)
    assert not (tmp_path / "out").exists()
