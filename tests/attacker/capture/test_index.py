"""Laws of the index of captures: whatever was appended is found by round, and no line is read twice."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attacker.capture import index as module
from attacker.capture.index import Index
from fl_sim.config import ConfigError

ROUNDS = st.lists(st.lists(st.integers(0, 99), unique=True, max_size=5), max_size=6)


def rows(server_round, users):
    return [{"round": server_round, "user": user, "status": "accepted"} for user in users]


@settings(max_examples=25, deadline=None)
@given(written=ROUNDS)
def test_a_reader_finds_each_round_as_it_was_written(written, tmp_path_factory):
    path = tmp_path_factory.mktemp("index") / "index.jsonl"
    writer, reader = Index(path), Index(path)
    for number, users in enumerate(written, 1):
        assert reader.finished() == list(range(1, number))
        writer.append(number, rows(number, users))
        assert reader.rows(number) == rows(number, users)
    assert list(reader.all_rows()) == [row for number, users in enumerate(written, 1) for row in rows(number, users)]
    for kept in range(len(written), -1, -1):
        writer.forget_from(kept + 1)
        assert reader.finished() == list(range(1, min(kept, len(written)) + 1))
        assert reader.rows(kept + 1) == []


def test_each_line_is_read_once(tmp_path, monkeypatch):
    index, read = Index(tmp_path / "index.jsonl"), []
    monkeypatch.setattr(module.json, "loads", lambda line, loads=json.loads: read.append(line) or loads(line))
    for number in range(1, 101):
        index.append(number, rows(number, [1, 2, 3]))
        index.finished()
    assert len(read) == 100 * 4
    index.rows(50)
    assert len(read) == 100 * 4 + 3


def test_a_line_that_is_cut_off_is_not_there_and_a_damaged_one_is_told(tmp_path):
    index = Index(tmp_path / "index.jsonl")
    index.append(1, rows(1, [4]))
    whole = index.path.read_bytes()
    with index.path.open("ab") as file:
        file.write(whole[:20])
    assert index.finished() == [1]
    with index.path.open("ab") as file:
        file.write(whole[20:])
    assert index.rows(1) == rows(1, [4, 4])
    with index.path.open("ab") as file:
        file.write(b"damaged\n")
    with pytest.raises(ConfigError, match=r"index.jsonl is damaged .*rebuilds it"):
        index.finished()


def test_what_follows_a_line_that_was_cut_off_for_good_is_read(tmp_path):
    """A full disk cut a round off, and the next one found room again."""
    index = Index(tmp_path / "index.jsonl")
    index.append(1, rows(1, [4]))
    with index.path.open("ab") as file:
        file.write(b'{"round": 2, "us')
    index.append(3, rows(3, [5]))
    assert index.finished() == Index(index.path).finished() == [1, 3]
    assert index.rows(3) == rows(3, [5])
