"""Work in a thread beside other work."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Thread


@contextmanager
def beside(work: Callable[[], None]) -> Iterator[None]:
    """`work` goes on beside the block, which then waits for it and raises what it raised.

    Nobody waits for it where the block fails; it does not keep the process from ending.
    """
    outcome: Future[None] = Future()

    def go() -> None:
        try:
            work()
            outcome.set_result(None)
        except BaseException as error:
            outcome.set_exception(error)

    Thread(target=go, daemon=True).start()
    yield
    outcome.result()
