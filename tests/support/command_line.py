"""`fl-sim` in this process."""

import contextlib
import io
import sys
from unittest import mock

from experiments.cli import app


def fl_sim(*arguments: object) -> tuple[int, str]:
    """Exit code and what was told on stderr."""
    told = io.StringIO()
    with mock.patch.object(sys, "argv", ["fl-sim", *map(str, arguments)]), contextlib.redirect_stderr(told):
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                app.main()
        except SystemExit as end:
            return (end.code if isinstance(end.code, int) else 0), told.getvalue()
    return 0, told.getvalue()


def sentence(told: str) -> str:
    """What stands after `error:`; asserts that it is one line of a readable length and no traceback."""
    assert "Traceback" not in told
    _, found, text = told.partition("error: ")
    assert found, told
    assert "not foreseen" not in text
    assert len(text.strip().splitlines()) == 1, text
    assert len(text) < 1000, text
    return text.strip()
