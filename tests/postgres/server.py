"""A PostgreSQL of our own: on a free port of 127.0.0.1, its data in a directory that goes with it."""

import glob
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Self

import psycopg
import pytest

from tests.certificates import Certificates
from tests.servers import START_SECONDS, end, free_port, require, spawn, standing_still


def program(name: str) -> str:
    """Return the path of one of the server's programs, which Debian keeps off the PATH."""
    found = sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{name}"), key=lambda path: int(path.split("/")[4]))
    return found[-1] if found else require(name)


class Postgres:
    """One server; the port and the data outlive its process, so that `restart` finds its clients again."""

    def __init__(self, certificates: Certificates | None, settings: Mapping[str, str]) -> None:
        self._settings = settings
        self._postgres, self._initdb = program("postgres"), program("initdb")
        self._directory = Path(tempfile.mkdtemp(prefix="que-postgres-"))
        self._data = self._directory / "data"
        self._log = self._directory / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0
        self._certificates = certificates
        self.port = 0

    @classmethod
    def start(cls, certificates: Certificates | None = None, **settings: str) -> Self:
        """Return a server that answers; `settings` are its own, on top of those for tests.

        With `certificates` it speaks TLS alone, with clients that have one.
        """
        server = cls(certificates, settings)
        server._make_data()
        server.restart()
        return server

    def _make_data(self) -> None:
        if os.getuid() == 0:
            os.chown(self._directory, *_somebody())
        made = subprocess.run(
            as_somebody([self._initdb, "-D", str(self._data), "-A", "trust", "-U", "que", "--no-sync", "-E", "UTF8"]),
            capture_output=True,
            check=False,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )
        assert made.returncode == 0, made.stderr.decode()
        if self._certificates is not None:
            (self._data / "pg_hba.conf").write_text("hostssl all all 127.0.0.1/32 trust clientcert=verify-ca\n")
            for file in (self._certificates.certificate, self._certificates.key, self._certificates.authority):
                shutil.copy(file, self._data)
                if os.getuid() == 0:
                    os.chown(self._data / file.name, *_somebody())

    def restart(self) -> None:
        """A process with the same data answers on the same port; one that still runs is stopped first."""
        self.stop()
        deadline = time.monotonic() + START_SECONDS
        while not self._launch(deadline):
            assert time.monotonic() < deadline, f"PostgreSQL does not start:\n{self._log.read_text()}"

    def _launch(self, deadline: float) -> bool:
        self.port = self.port or free_port()
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "fsync": "off",
            "max_connections": 200,
            "shared_buffers": "64MB",
            **self._settings,
        }
        if (files := self._certificates) is not None:
            settings |= {"ssl": "on", "ssl_ca_file": files.authority.name}
            settings |= {"ssl_cert_file": files.certificate.name, "ssl_key_file": files.key.name}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with self._log.open("ab") as log:
            self._process = spawn(as_somebody([self._postgres, "-D", str(self._data), *options]), stderr=log)
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                with psycopg.connect(self.conninfo(), connect_timeout=2):
                    return True
            except psycopg.OperationalError:
                time.sleep(0.02)
        if self._process.poll() is not None and not (self._data / "postmaster.pid").exists():
            # Somebody else was quicker to take the port.
            self.port = 0
        return False

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def sessions(self) -> list[int]:
        """Return the processes that serve clients, by their ids."""
        with psycopg.connect(self.conninfo(), autocommit=True) as connection:
            rows = connection.execute(
                "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            ).fetchall()
        return [pid for (pid,) in rows]

    def stopped(self) -> AbstractContextManager[None]:
        """The server and its sessions stand still, their sockets open, until the block ends."""
        return standing_still(self.pid, *self.sessions())

    def conninfo(self, database: str = "postgres") -> str:
        said = f"host=127.0.0.1 port={self.port} user=que dbname={database}"
        if (files := self._certificates) is not None:
            said += f" sslcert={files.certificate} sslkey={files.key}"
        return said

    def new_database(self) -> str:
        """Return the name of a database that is empty."""
        self._databases += 1
        name = f"test{self._databases}"
        with psycopg.connect(self.conninfo(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return name

    def url(self, database: str) -> str:
        return f"postgresql://que@127.0.0.1:{self.port}/{database}"

    def stop(self) -> None:
        """The server has shut down and its clients' sessions with it; nothing happens when it is already gone."""
        if self._process is not None:
            # SIGINT is PostgreSQL's fast shutdown; SIGTERM would wait for every client to leave.
            if self._process.poll() is None:
                self._process.send_signal(2)
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(START_SECONDS)
            end(self._process)
            self._process = None

    def remove(self) -> None:
        """Nothing is left of it."""
        self.stop()
        shutil.rmtree(self._directory, ignore_errors=True)


def _somebody() -> tuple[int, int]:
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return entry.pw_uid, entry.pw_gid
    pytest.fail("PostgreSQL does not run as root, and there is no user nobody")


def as_somebody(command: Sequence[str]) -> list[str]:
    """Return the command as one that is not run by root, which PostgreSQL refuses."""
    if os.getuid() != 0:
        return list(command)
    user, group = _somebody()
    return [
        require("setpriv"),
        f"--reuid={user}",
        f"--regid={group}",
        "--clear-groups",
        # The death signal that spawn() has set is forgotten when the user changes.
        "--pdeathsig=KILL",
        *command,
    ]


@contextmanager
def running(certificates: Certificates | None = None, **settings: str) -> Generator[Postgres]:
    """A server that is gone when the block ends."""
    server = Postgres.start(certificates, **settings)
    try:
        yield server
    finally:
        server.remove()
