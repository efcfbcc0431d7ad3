"""ONNX files for tests, written by hand (the wire format of protobuf), so that tests need no exporter.

`embedder(path)` averages the picture over a 4 x 4 grid, less `centre`, and gives its 48 numbers as `embedding`.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FLOAT, UINT8, INT8, INT64, FLOAT16, DOUBLE = 1, 2, 3, 7, 10, 11  # TensorProto.DataType
OPSET = 13


@dataclass(frozen=True)
class Node:
    """One operation; an attribute is an int, or a list of ints."""

    op: str
    inputs: Sequence[str]
    output: str
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Value:
    """An input or output; a dimension is a number, or the name of one that is free."""

    name: str
    kind: int
    shape: Sequence[int | str]


def write(path: Path, nodes: Sequence[Node], inputs: Sequence[Value], outputs: Sequence[Value]) -> Path:
    """Write the model. A node input that is a number in text, such as `0.5`, is that constant."""
    constants = sorted({name for node in nodes for name in node.inputs if _is_number(name)})
    graph = b"".join(
        [
            *(_part(1, _node(node)) for node in nodes),
            _part(2, b"tiny"),
            *(_part(5, _constant(name)) for name in constants),
            *(_part(11, _value(value)) for value in inputs),
            *(_part(12, _value(value)) for value in outputs),
        ]
    )
    path.write_bytes(_number(1, 8) + _part(7, graph) + _part(8, _number(2, OPSET)))
    return path


def embedder(
    path: Path,
    shape: Sequence[int | str] = ("n", 3, 32, 32),
    kind: int = FLOAT,
    more: Mapping[str, int] | None = None,
    centre: float = 0.5,
) -> Path:
    """A model with an input `image` of `shape`, channels first or last, and `kind`.

    Outputs: `embedding` (n, 48), and those of `more`: a name, and how many of the picture's axes it keeps (0: the
    whole batch in one number).
    """
    last = shape[3] == 3
    height, width = (shape[1], shape[2]) if last else (shape[2], shape[3])
    grid = [int(height) // 4, int(width) // 4]
    nodes = [Node("Cast", ["image"], "float", {"to": FLOAT})]
    nodes.append(Node("Transpose", ["float"], "planes", {"perm": [0, 3, 1, 2] if last else [0, 1, 2, 3]}))
    nodes.append(Node("AveragePool", ["planes"], "pooled", {"kernel_shape": grid, "strides": grid}))
    nodes.append(Node("Sub", ["pooled", str(centre)], "centred"))
    nodes.append(Node("Flatten", ["centred"], "embedding", {"axis": 1}))
    outputs = [Value("embedding", FLOAT, [shape[0], 48])]
    for name, axes in (more or {}).items():
        gone = list(range(1 if axes else 0, 4 - axes + 1 if axes else 4))
        nodes.append(Node("ReduceMean", ["centred"], name, {"axes": gone, "keepdims": 0}))
        outputs.append(Value(name, FLOAT, [shape[0], *["k"] * (axes - 1)] if axes else []))
    return write(path, nodes, [Value("image", kind, shape)], outputs)


def _is_number(name: str) -> bool:
    return name.lstrip("-")[:1].isdigit()


def _node(node: Node) -> bytes:
    attributes = (_part(5, _attribute(name, value)) for name, value in node.attributes.items())
    inputs = (_part(1, name.encode()) for name in node.inputs)
    return b"".join([*inputs, _part(2, node.output.encode()), _part(4, node.op.encode()), *attributes])


def _attribute(name: str, value: Any) -> bytes:
    said = _part(1, name.encode())
    if isinstance(value, int):
        return said + _number(3, value) + _number(20, 2)
    return said + b"".join(_number(8, one) for one in value) + _number(20, 7)


def _constant(name: str) -> bytes:
    return _number(2, FLOAT) + _part(8, name.encode()) + _part(9, struct.pack("<f", float(name)))


def _value(value: Value) -> bytes:
    dims = b"".join(
        _part(1, _number(1, one) if isinstance(one, int) else _part(2, one.encode())) for one in value.shape
    )
    return _part(1, value.name.encode()) + _part(2, _part(1, _number(1, value.kind) + _part(2, dims)))


def _number(field_number: int, value: int) -> bytes:
    return _varint(field_number << 3) + _varint(value)


def _part(field_number: int, content: bytes) -> bytes:
    return _varint(field_number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])
