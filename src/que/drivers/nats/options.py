"""What a nats:// or tls:// URL asks for, read once."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from que.address import Address, Host
from que.errors import ConfigurationError
from que.tls import OPTIONS as TLS_OPTIONS
from que.tls import TLS

DEFAULT_PORT = 4222
_OPTIONS = (
    "backoff", "creds", "dead_letter_ttl", "heartbeat", "lease", "nkey", "prefix", "replicas", "storage", "timeout",
    "token", "unique_window",
)  # fmt: skip
_STORAGES = ("file", "memory")
_PREFIX = re.compile("[A-Za-z0-9_-]{1,64}")
_TWO_WEEKS = 14 * 86_400.0


@dataclass(frozen=True, slots=True)
class NatsOptions:
    """All times are in seconds.

    `prefix`: the first token of every subject and name on the server. `lease`: after so long without a renewal a job
    goes to another worker. `unique_window`: for so long after its submission a unique key coalesces. `timeout`: for one
    operation, a wait for the server's return included. `heartbeat`: a silent server is asked so often, and after the
    second silence it is dead. `backoff`: the longest pause between two attempts to connect. `creds`, `nkey`: paths.
    """

    hosts: tuple[Host, ...]
    tls: TLS | None
    user: str | None
    password: str | None = field(repr=False)
    token: str | None = field(repr=False)
    creds: str | None
    nkey: str | None
    prefix: str
    replicas: int
    storage: str
    lease: float
    unique_window: float
    dead_letter_ttl: float
    timeout: float
    heartbeat: float
    backoff: float

    @classmethod
    def of(cls, address: Address) -> "NatsOptions":
        """Return the options of `address`; raises ConfigurationError, with a way out, for what cannot be used."""
        secure = address.scheme == "tls"
        address.refuse_other_options(_OPTIONS + (TLS_OPTIONS if secure else ()))
        if address.path.strip("/"):
            raise ConfigurationError(f"{address}: NATS has no paths; several installations share a server by prefix=")
        user, token = address.username, address.text("token") or None
        if user is not None and address.password is None and token is None:
            # As NATS' own tools read nats://token@host.
            user, token = None, user
        return cls(
            hosts=_hosts(address),
            tls=TLS.of(address) if secure else None,
            user=user,
            password=address.password,
            token=token,
            creds=_file(address, "creds"),
            nkey=_file(address, "nkey"),
            prefix=_prefix(address),
            replicas=int(address.number("replicas", 1, minimum=1, maximum=5)),
            storage=_storage(address),
            lease=address.number("lease", 30, minimum=0.2, maximum=86_400),
            unique_window=address.number("unique_window", 120, minimum=0.1, maximum=7 * 86_400),
            dead_letter_ttl=address.number("dead_letter_ttl", _TWO_WEEKS, minimum=1, maximum=10 * 366 * 86_400),
            timeout=address.number("timeout", 10, minimum=0.1, maximum=3600),
            heartbeat=address.number("heartbeat", 10, minimum=0.1, maximum=3600),
            backoff=address.number("backoff", 2, minimum=0.01, maximum=3600),
        )


def _hosts(address: Address) -> tuple[Host, ...]:
    given = address.hosts or (Host("127.0.0.1"),)
    return tuple(Host(host.name, DEFAULT_PORT if host.port is None else host.port) for host in given)


def _file(address: Address, name: str) -> str | None:
    path = address.text(name)
    if path and not Path(path).is_file():
        raise ConfigurationError(f"{address}: option {name} must name a file, and there is none where it points")
    return path or None


def _prefix(address: Address) -> str:
    prefix = address.text("prefix", "que")
    if not _PREFIX.fullmatch(prefix):
        raise ConfigurationError(f"{address}: option prefix must be letters, digits, _ or -, at most 64: {prefix!r}")
    return prefix


def _storage(address: Address) -> str:
    storage = address.text("storage", "file").lower()
    if storage not in _STORAGES:
        raise ConfigurationError(f"{address}: option storage must be file or memory, not {storage!r}")
    return storage
