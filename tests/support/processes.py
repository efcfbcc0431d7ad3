"""Child processes that are copies of this one: quick to make, and free to be killed."""

import ctypes
import os
import signal
import traceback
from collections.abc import Callable
from typing import Any

import pytest


def killed_at_write(number: int, call: Callable[[], Any]) -> bool:
    """Run `call` in a child that is killed as it makes the `number`-th file durable; whether it came so far.

    The file's bytes are written, under its temporary name or at the end of the index, and nothing after that is.
    """

    def body() -> None:
        real, left = os.fsync, [number]

        def fsync(handle: int) -> None:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            real(handle)

        os.fsync = fsync
        call()

    return os.WTERMSIG(_status(body)) == signal.SIGKILL


def without_privileges(call: Callable[[], Any]) -> int:
    """Exit code of a child that runs `call` with no capabilities: the modes of files apply to root as to all others.

    Another user would not do: root's Python, and what is still to be imported, may be out of that user's reach.
    """

    def body() -> None:
        if os.getuid() == 0:
            version, none = 0x20080522, (ctypes.c_uint32 * 6)()  # capset(2): two sets of three words
            if ctypes.CDLL(None, use_errno=True).capset((ctypes.c_uint32 * 2)(version, 0), none):
                raise OSError(ctypes.get_errno(), "capset")
        call()

    return os.waitstatus_to_exitcode(_status(body))


def _status(body: Callable[[], None]) -> int:
    """How the child ended that ran `body`: 0 as it should, 1 with an exception, 9 killed."""
    if not hasattr(os, "fork"):
        pytest.skip("needs os.fork")
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            body()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1]
