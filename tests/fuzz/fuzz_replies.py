"""Fuzz the server with replies made of arbitrary bytes.

    python tests/fuzz/fuzz_replies.py -runs=10000        # with atheris (pip install "fl-sim[fuzz]"), guided by coverage
    python tests/fuzz/fuzz_replies.py -runs=1000 -seed=3 # without it, bytes drawn at random

An input that breaks a law of `hostile_round.play` ends the fuzzing with its traceback; atheris leaves the input in
`crash-...`, and `python tests/fuzz/fuzz_replies.py crash-...` plays it again.
"""

import random
import shutil
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2])]

try:
    import atheris

    watched: Any = atheris.instrument_imports(include=["attacker", "fl_sim"])  # not torch, which takes minutes
except ImportError:
    atheris, watched = None, nullcontext()

with watched:
    import fl_sim.federation.strategy  # noqa: F401

from hostile_round import MODEL, SPECIAL, Reply, honest, npy_bytes, play, raw  # noqa: E402 (its folder is not a package)

KEYS = ["num-examples", "partition-id", "server-round", "label-proportions", "correct", "loss", "members", "other"]
HEADER = "{'descr': '<f4', 'fortran_order': False, 'shape': %s, }"


class Bytes:
    """Numbers, choices and strings out of a string of bytes; zeros after its end."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, count: int) -> bytes:
        taken = self._data[self._at : self._at + count]
        self._at += count
        return taken

    def number(self, below: int) -> int:
        return int.from_bytes(self.take(2), "little") % below

    def choice(self, options: Any) -> Any:
        return options[self.number(len(options))]


def one_reply(source: Bytes) -> Reply:
    return Reply(
        user=source.number(4),
        arrays=source.choice([None, _arrays]) and _arrays(source),
        metrics={source.choice(KEYS): _value(source) for _ in range(source.number(4))},
        array_record=source.choice(["arrays", "arrays", "arrays", "a"]),
        metric_record=source.choice(["metrics", "metrics", "m"]),
        more=source.choice([(), (), ("more",)]),
        node=source.choice([None, None, None, int.from_bytes(source.take(8), "little")]),
        created_at=source.choice([None, *SPECIAL]),
        error=source.choice([None, None, None, source.take(12).decode("utf-8", "replace")]),
    )


def _arrays(source: Bytes) -> Any:
    arrays = honest(0)
    for _ in range(source.number(3)):
        content = source.take(source.number(64))
        shape = source.choice(["(2,)", "(2, 3)", "()", "(-1,)", "(99999999999,)", content.decode("latin-1")])
        data = source.choice([content, npy_bytes(HEADER % shape, content), npy_bytes(content.decode("latin-1"))])
        arrays[source.choice([*MODEL, "extra"])] = raw(data)
    return arrays


def _value(source: Bytes) -> Any:
    whole = int.from_bytes(source.take(source.number(10)), "little", signed=True)
    return source.choice([None, whole, source.choice(SPECIAL), [whole], [source.choice(SPECIAL)], 1, 0])


def one_input(data: bytes) -> None:
    source = Bytes(data)
    folder = tempfile.mkdtemp(prefix="fuzz", dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
    try:
        trained = [one_reply(source) for _ in range(1 + source.number(5))]
        play(Path(folder), trained, [one_reply(source) for _ in range(source.number(3))])
    finally:
        shutil.rmtree(folder)


def without_atheris(arguments: list[str]) -> int:
    """`-runs` random inputs from `-seed`, or the files given; how many were played."""
    options = dict(one.lstrip("-").split("=", 1) for one in arguments if one.startswith("-") and "=" in one)
    files = [Path(one) for one in arguments if not one.startswith("-")]
    draw, runs = random.Random(int(options.get("seed", 0))), int(options.get("runs", 1000))
    inputs = (path.read_bytes() for path in files) if files else (draw.randbytes(400) for _ in range(runs))
    return sum(one_input(data) is None for data in inputs)


if __name__ == "__main__":
    if atheris is None:
        print(f"{without_atheris(sys.argv[1:])} inputs played, without atheris: not guided by coverage")
    else:
        # Long inputs from the start: a short one is a single reply.
        atheris.Setup([sys.argv[0], "-len_control=0", "-max_len=400", *sys.argv[1:]], one_input)
        atheris.Fuzz()
