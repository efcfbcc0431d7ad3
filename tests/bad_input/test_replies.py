"""Replies that no honest user sends: each is recorded, none loses the round."""

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord
from hostile_round import MODEL, SPECIAL, Reply, buffer, honest, npy, npy_bytes, play, raw
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fl_sim.federation.replies import tensors

DEEP = "(" * 3000 + ")" * 3000
HOSTILE_BYTES = {
    "nothing": b"",
    "no array": b"no array at all",
    "cut off": buffer(np.ones((2, 3), np.float32))[:-4],
    "only a magic": b"\x93NUMPY",
    "a header without end": b"\x93NUMPY\x01\x00\xff\xff{",
    "more than there is memory": npy_bytes("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000000,), }"),
    "more than there are integers": npy_bytes(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({2**70},), }}"),
    "less than nothing": npy_bytes("{'descr': '<f4', 'fortran_order': False, 'shape': (-3,), }"),
    "another byte order": buffer(np.ones(2, ">f4")),
    "a record": buffer(np.zeros(2, [("a", "<f4")])),
    "text": buffer(np.array(["a", "b"])),
    "brackets": npy_bytes(DEEP),
    "a header that is code": npy_bytes("__import__('os').abort()"),
    "a pickle": npy_bytes("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", b"\x80\x04]\x94."),
    "an archive": b"PK\x05\x06" + bytes(18),
}


@pytest.mark.parametrize("kind", HOSTILE_BYTES)
def test_bytes_that_are_no_array_are_a_recorded_rejection(kind, tmp_path):
    replies = [Reply(0, arrays={**honest(0), "b": raw(HOSTILE_BYTES[kind])}), Reply(1)]
    first, second, *_ = play(tmp_path, replies, [])
    assert (first["status"], second["status"]) == ("rejected", "accepted")
    assert first["reason"]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply(0, array_record="gradient"), "the array record is called 'gradient', expected 'arrays'"),
        (Reply(0, more=("more",)), "holds 2 array records"),
        (Reply(0, metrics={"num-examples": 2**70}), "num-examples is 1180591620717411303424, expected"),
        (Reply(0, metrics={"num-examples": [3, 4]}), "num-examples is [3, 4], expected"),
        (Reply(0, metrics={"partition-id": None}), "says that it is of user None, but its node is that of user 0"),
        (Reply(0, metrics={"partition-id": 2}), "says that it is of user 2, but its node is that of user 0"),
        (Reply(0, metrics={"partition-id": [0]}), "says that it is of user [0], but"),
        (Reply(0, metrics={"server-round": 2}), "of round 2, expected 3"),
        (Reply(0, metrics={"server-round": [3]}), "of round [3], expected 3"),
        (Reply(0, metrics={"label-proportions": [0.5, 0.25, 0.25]}), "label-proportions are not"),
        (Reply(0, node=77), "the node was not asked in this round"),
        (Reply(0, arrays={}), "missing key"),
        (Reply(0, arrays={**honest(0), "\n" * 9 + "x" * 9999: npy(np.ones(2))}), "unexpected key"),
        (Reply(0, arrays={**honest(0), "b": npy(np.array(3, np.float32))}), "'b' has shape (), expected (2,)"),
        (Reply(0, arrays={**honest(0), "b": npy(np.ones(2, np.complex64))}), "'b' has dtype torch.complex64"),
    ],
)
def test_a_reply_that_lies_is_told_why_it_is_rejected(reply, reason, tmp_path):
    rows = play(tmp_path, [reply, Reply(1)], [])
    told = next(row for row in rows if row["status"] == "rejected")
    assert reason in told["reason"]
    assert next(row for row in rows if row["user"] == 1)["status"] == "accepted"


@given(
    hnp.arrays(
        st.sampled_from([np.float32, np.float64, np.int64, np.bool_]),
        hnp.array_shapes(min_dims=0, min_side=0, max_side=4),
    ),
    st.booleans(),
)
def test_arrays_are_read_in_place_as_flower_reads_them(array, by_columns):
    record = ArrayRecord({"a": npy(np.asfortranarray(array) if by_columns else array)})
    read, theirs = tensors(record)["a"], record.to_torch_state_dict()["a"]
    assert (read.shape, read.dtype) == (theirs.shape, theirs.dtype)
    assert torch.equal(read.nan_to_num(), theirs.nan_to_num())


def test_a_replayed_reply_counts_once(tmp_path):
    rows = play(tmp_path, [Reply(0), Reply(0), Reply(1)], [Reply(0), Reply(0)])
    assert [(row["user"], row["status"]) for row in rows[:3]] == [(0, "accepted"), (0, "rejected"), (1, "accepted")]


def test_records_by_another_name_and_odd_times_do_no_harm(tmp_path):
    rows = play(tmp_path, [Reply(0, metric_record="m"), *(Reply(n, created_at=SPECIAL[-n]) for n in (1, 2, 3))], [])
    assert [row["status"] for row in rows] == ["accepted"] * 4
    assert [row["seconds"] for row in rows[1:]] == [None] * 3


numbers = st.integers(-(2**80), 2**80) | st.integers(-1, 5) | st.floats() | st.sampled_from(SPECIAL)
metrics = st.dictionaries(
    st.sampled_from(["num-examples", "partition-id", "server-round", "label-proportions", "correct", "loss", "members"])
    | st.text(max_size=3),
    st.none() | numbers | st.lists(st.integers(0, 4), max_size=3) | st.lists(st.floats(), max_size=3),
    max_size=4,
)
plain = hnp.arrays(
    st.sampled_from([np.float32, np.float32, np.float64, np.float16, np.int64, np.uint8, np.bool_, np.complex64]),
    st.sampled_from([(2, 3), (2,), (3, 2), (), (0,), (1, 2, 3)]),
).map(npy)
special = st.tuples(st.sampled_from(SPECIAL), st.sampled_from([(2, 3), (2,)])).map(
    lambda drawn: npy(np.full(drawn[1], drawn[0], np.float32))
)
bytes_ = st.sampled_from(sorted(HOSTILE_BYTES.values())).map(raw) | st.binary(max_size=40).map(raw)
arrays = st.dictionaries(
    st.sampled_from([*MODEL, *MODEL, "extra", "", "statistics:w"]) | st.text(max_size=3),
    plain | special | bytes_,
    max_size=4,
)
names = st.sampled_from(["arrays", "arrays", "metrics", "a", ""])
replies = st.builds(
    Reply,
    user=st.integers(0, 3),
    arrays=st.none() | arrays,
    metrics=metrics,
    array_record=names,
    metric_record=st.sampled_from(["metrics", "metrics", "m"]),
    more=st.lists(st.text(max_size=3), max_size=1).map(tuple),
    node=st.none() | st.none() | st.integers(0, 2**64 - 1),
    created_at=st.none() | st.floats() | st.text(max_size=3),
    error=st.none() | st.none() | st.text(max_size=20),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(replies, max_size=6), st.lists(replies, max_size=3))
def test_whatever_the_replies_are_the_round_ends_and_only_sound_ones_count(tmp_path_factory, trained, evaluated):
    play(tmp_path_factory.mktemp("round"), trained, evaluated)
