"""Work beside a block: waited for, heard of, and in nobody's way."""

from threading import Event

import pytest

from experiments.run.beside import beside


def test_it_goes_on_beside_the_block_which_waits_for_it() -> None:
    begun, block_done, said = Event(), Event(), []

    def work() -> None:
        begun.set()
        assert block_done.wait(30)
        said.append("done")

    with beside(work):
        assert begun.wait(30)
        block_done.set()
    assert said == ["done"]


def test_what_it_raises_is_raised_after_the_block() -> None:
    def fail() -> None:
        raise OSError("disk full")

    said = []
    with pytest.raises(OSError, match="disk full"), beside(fail):
        said.append("block")
    assert said == ["block"]


def test_a_block_that_fails_does_not_wait() -> None:
    forever = Event()
    with pytest.raises(KeyboardInterrupt), beside(lambda: forever.wait(300) and None):
        raise KeyboardInterrupt
    forever.set()
