"""What a `sqlite://` URL says: the file, and how it is used."""

from dataclasses import dataclass
from pathlib import Path

from que.address import Address
from que.drivers.sqlite.database import Settings
from que.errors import ConfigurationError

OPTIONS = ("synchronous", "lease", "dead_letter_ttl", "busy_timeout")
_SYNCHRONOUS = ("normal", "full")
_TWO_WEEKS = 14 * 86_400.0


@dataclass(frozen=True, slots=True)
class SqliteOptions:
    """`lease_seconds`: after that long without a renewal a job goes to another worker."""

    path: Path
    settings: Settings
    lease_seconds: float
    dead_letter_ttl: float

    @classmethod
    def parse(cls, address: Address) -> "SqliteOptions":
        """Return the options; raises ConfigurationError, naming the way out, for what cannot be used."""
        address.refuse_other_options(OPTIONS)
        synchronous = address.text("synchronous", "normal").lower()
        if synchronous not in _SYNCHRONOUS:
            raise ConfigurationError(f"{address}: option synchronous must be normal or full, not {synchronous!r}")
        return cls(
            _path(address),
            Settings(synchronous, address.number("busy_timeout", 5, minimum=0, maximum=3600)),
            address.number("lease", 30, minimum=0.1, maximum=86_400),
            address.number("dead_letter_ttl", _TWO_WEEKS, minimum=0),
        )


def _path(address: Address) -> Path:
    if address.hosts or address.username is not None:
        raise ConfigurationError(
            f"{address}: a file has no host: write sqlite:///jobs.db, or sqlite:////var/lib/jobs.db"
        )
    name = address.path.removeprefix("/")
    if not name or name.startswith(":"):
        raise ConfigurationError(
            f"{address} names no file: write sqlite:///jobs.db; queues without a file are memory://"
        )
    path = Path(name)
    if ".." in path.parts or name.startswith("file:") or name.endswith("/") or "\0" in name:
        raise ConfigurationError(f"{address}: expected the plain path of a file, without .., file: or a trailing slash")
    return path
