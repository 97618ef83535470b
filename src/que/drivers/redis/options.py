"""What a `redis://` or `rediss://` URL says: the servers, the namespace, and how long to wait for what."""

import re
from dataclasses import dataclass, field

from que.address import Address, Host
from que.errors import ConfigurationError
from que.tls import TLS

DEFAULT_PORT = 6379
# redis-py has no server_hostname.
_TLS_OPTIONS = ("cafile", "certfile", "keyfile")
_OPTIONS = ("namespace", "lease", "dead_letter_ttl", "timeout", "linger", "backoff")
_NAMESPACE = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_TWO_WEEKS = 14 * 86_400.0


@dataclass(frozen=True, slots=True)
class RedisOptions:
    """All times are in seconds.

    `tls`: None but for `rediss://`. `prefix`: what every key begins with; its braces keep them in one slot of a
    cluster. `lease`: after that long without a renewal a job goes to another worker. `timeout`: for one operation.
    `linger`: how long a process that says nothing keeps its mail. `backoff`: the longest pause between two attempts to
    connect.
    """

    hosts: tuple[Host, ...]
    username: str | None
    password: str | None = field(repr=False)
    database: int
    tls: TLS | None
    prefix: str
    lease: float
    dead_letter_ttl: float
    timeout: float
    linger: float
    backoff: float

    @classmethod
    def parse(cls, address: Address) -> "RedisOptions":
        """Return the options; raises ConfigurationError, naming the way out, for what cannot be used."""
        secure = address.scheme == "rediss"
        address.refuse_other_options((*_OPTIONS, *(_TLS_OPTIONS if secure else ())))
        namespace = address.text("namespace", "que")
        if not _NAMESPACE.fullmatch(namespace):
            raise ConfigurationError(
                f"{address}: option namespace must be 1 to 64 letters, digits, or any of _.:-, not {namespace!r}"
            )
        return cls(
            hosts=address.hosts or (Host("127.0.0.1"),),
            username=address.username,
            password=address.password,
            database=_database(address),
            tls=_tls(address) if secure else None,
            prefix=f"{{{namespace}}}:",
            lease=address.number("lease", 30, minimum=0.1, maximum=86_400),
            dead_letter_ttl=address.number("dead_letter_ttl", _TWO_WEEKS, minimum=0),
            timeout=address.number("timeout", 10, minimum=0.05, maximum=3600),
            linger=address.number("linger", 60, minimum=2, maximum=86_400),
            backoff=address.number("backoff", 2, minimum=0.01, maximum=3600),
        )


def _database(address: Address) -> int:
    text = address.path.strip("/")
    if not text:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) < 6):
        raise ConfigurationError(f"{address}: the path is the number of a database, as in redis://127.0.0.1:6379/0")
    return int(text)


def _tls(address: Address) -> TLS:
    tls = TLS.of(address)
    # redis-py would find only at each connection that a file cannot be read.
    tls.context()
    return tls
