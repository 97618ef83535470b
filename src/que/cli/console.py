"""What the command line says: whole lines on stderr."""

import contextlib
import os


def say(text: str) -> None:
    """One line is on stderr, in one write, so that the lines of several processes do not mix; safe anywhere.

    Not through sys.stderr, whose lock another thread may hold, and which a signal handler must not enter twice.
    """
    with contextlib.suppress(OSError):
        os.write(2, f"que: {text}\n".encode("utf-8", "backslashreplace"))
