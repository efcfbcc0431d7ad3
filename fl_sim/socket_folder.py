"""Where Ray's sockets may lie: the system allows a socket's path 107 bytes, and Ray's own part of it takes 76."""

import os
import tempfile

from fl_sim.config import ConfigError

LONGEST = 30  # bytes
USUAL = "/tmp"  # where TMPDIR is too long


def socket_folder() -> str:
    """An existing folder, short enough, in which to make Ray's: that of TMPDIR, else /tmp.

    Raises ConfigError where there is none.
    """
    wanted = tempfile.gettempdir()
    for folder in (wanted, USUAL):
        if len(os.fsencode(folder)) <= LONGEST and os.access(folder, os.W_OK | os.X_OK):
            return folder
    raise ConfigError(
        f"TMPDIR is {wanted}, too long for Ray's sockets (at most {LONGEST} bytes), and {USUAL} cannot be "
        "written; set TMPDIR to a shorter folder"
    )
