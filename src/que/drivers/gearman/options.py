"""What a gearman:// or gearmans:// URL asks for, read once."""

from dataclasses import dataclass

from que.address import Address, Host
from que.errors import ConfigurationError
from que.gearman.packets import DEFAULT_MAX_PAYLOAD, MAX_CLIENT_ID_BYTES
from que.tls import OPTIONS as TLS_OPTIONS
from que.tls import TLS

DEFAULT_PORT = 4730
_OPTIONS = (
    "backoff", "client_id", "connect_timeout", "deadline", "durable", "heartbeat", "max_payload", "submit_timeout",
    "watch_timeout",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Options:
    """All times are in seconds.

    `heartbeat`: an ECHO is sent after so long a silence, and `deadline` later the connection counts as dead.
    `connect_timeout`: for one attempt, until the server has answered. `submit_timeout`: how long a job waits for a live
    server before it is NotSent. `watch_timeout`: how long an accepted job is watched before it is ConnectionLost,
    0 for as long as it takes. `backoff`: the longest pause between two attempts. `durable`: the user's word that the
    server has a persistent queue.
    """

    hosts: tuple[Host, ...]
    tls: TLS | None
    client_id: bytes
    heartbeat: float
    deadline: float
    connect_timeout: float
    submit_timeout: float
    watch_timeout: float
    backoff: float
    durable: bool
    max_payload: int

    @classmethod
    def of(cls, address: Address) -> "Options":
        """Return the options of `address`; raises ConfigurationError for what is unknown or out of bounds."""
        secure = address.scheme == "gearmans"
        address.refuse_other_options(_OPTIONS + (TLS_OPTIONS if secure else ()))
        if address.username is not None or address.password is not None or address.path.strip("/"):
            raise ConfigurationError(f"{address}: Gearman has no users, passwords or paths: leave them out")
        return cls(
            hosts=_hosts(address),
            tls=TLS.of(address) if secure else None,
            client_id=_client_id(address),
            heartbeat=address.number("heartbeat", 10, minimum=0.05),
            deadline=address.number("deadline", 10, minimum=0.05),
            connect_timeout=address.number("connect_timeout", 5, minimum=0.05),
            submit_timeout=address.number("submit_timeout", 10, minimum=0),
            watch_timeout=address.number("watch_timeout", 0, minimum=0),
            backoff=address.number("backoff", 2, minimum=0.01),
            durable=address.flag("durable"),
            max_payload=int(address.number("max_payload", DEFAULT_MAX_PAYLOAD, minimum=1, maximum=2**32 - 2**16)),
        )


def _hosts(address: Address) -> tuple[Host, ...]:
    given = address.hosts or (Host("127.0.0.1"),)
    hosts = tuple(Host(host.name, DEFAULT_PORT if host.port is None else host.port) for host in given)
    if len(set(hosts)) != len(hosts):
        raise ConfigurationError(f"{address}: a server stands twice")
    return hosts


def _client_id(address: Address) -> bytes:
    text = address.text("client_id")
    encoded = text.encode()
    if len(encoded) > MAX_CLIENT_ID_BYTES or not text.isprintable() or " " in text:
        raise ConfigurationError(
            f"{address}: option client_id must have at most {MAX_CLIENT_ID_BYTES} bytes and no blanks: gearmand cuts it"
        )
    return encoded
