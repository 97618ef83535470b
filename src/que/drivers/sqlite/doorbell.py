"""How one process wakes another that shares the file: a byte to a Unix datagram socket beside it."""

import os
import socket
from pathlib import Path

from que.errors import ConfigurationError

# What sockaddr_un holds on Linux, less the final NUL; other systems have a few bytes less.
_LONGEST_PATH = 100
_RING = b"\0"


class Doorbell:
    """A socket of our own to be rung by, and the way to ring those of others; a ring says only that there is news.

    `directory` is made with mode 0700. No ring waits: one that finds the other's buffer full is not needed.
    """

    def __init__(self, directory: Path, name: str) -> None:
        directory.mkdir(mode=0o700, exist_ok=True)
        self._path = directory / name
        self._fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        self._prefix = _addressable(directory, len(name), self._fd)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        try:
            self._socket.bind(f"{self._prefix}/{name}")
        except BaseException:
            self._socket.close()
            os.close(self._fd)
            raise

    def fileno(self) -> int:
        """The descriptor that becomes readable when somebody rings."""
        return self._socket.fileno()

    def hush(self) -> None:
        """Forget all rings so far."""
        try:
            while self._socket.recv(1):
                pass
        except BlockingIOError:
            return

    def ring(self, name: str) -> bool:
        """Return False if nobody is there any more."""
        try:
            self._socket.sendto(_RING, f"{self._prefix}/{name}")
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except OSError:
            # Its buffer is full, or the system is short of something: it looks by itself before long.
            return True
        return True

    def remove(self, name: str) -> None:
        """Remove what one who is gone has left."""
        self._path.with_name(name).unlink(missing_ok=True)

    def close(self) -> None:
        """Be rung no more."""
        self._socket.close()
        self._path.unlink(missing_ok=True)
        os.close(self._fd)


def _addressable(directory: Path, name_length: int, fd: int) -> str:
    """Return a way to name `directory` that fits into a socket's address."""
    if len(os.fsencode(directory)) + 1 + name_length <= _LONGEST_PATH:
        return str(directory)
    if os.path.isdir(f"/proc/self/fd/{fd}"):
        return f"/proc/self/fd/{fd}"
    raise ConfigurationError(f"{directory} is too long for a socket's address: choose a shorter path")
