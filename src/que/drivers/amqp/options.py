"""What an amqp:// or amqps:// URL asks for, read once."""

import re
from dataclasses import dataclass, field

from que.address import Address, Host
from que.errors import ConfigurationError
from que.tls import OPTIONS as TLS_OPTIONS
from que.tls import TLS

DEFAULT_PORT = 5672
_TLS_PORT = 5671
_OPTIONS = ("backoff", "dead_letter_ttl", "heartbeat", "max_payload", "prefix", "timeout")
_PREFIX = re.compile("[A-Za-z0-9_-]{1,40}")
_TWO_WEEKS = 14 * 86_400.0
# RabbitMQ's own default, 3.8 to 3.13; 4.0 has 16 MiB.
DEFAULT_MAX_PAYLOAD = 128 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Options:
    """All times are in seconds.

    `hosts`: the nodes of one cluster, any of which will do. `prefix`: what the names of all queues and exchanges begin
    with. `timeout`: for each answer of the server. `heartbeat`: 0 leaves it to the server's wish. `backoff`: the
    longest pause between two attempts to connect. `dead_letter_ttl`: how long a dead letter is kept.
    """

    hosts: tuple[Host, ...]
    tls: TLS | None
    username: str
    password: str = field(repr=False)
    virtual_host: str
    prefix: str
    timeout: float
    heartbeat: float
    backoff: float
    dead_letter_ttl: float
    max_payload: int

    @classmethod
    def of(cls, address: Address) -> "Options":
        """Return the options of `address`; raises ConfigurationError for what is unknown or out of bounds."""
        secure = address.scheme == "amqps"
        address.refuse_other_options(_OPTIONS + (TLS_OPTIONS if secure else ()))
        prefix = address.text("prefix", "que")
        if not _PREFIX.fullmatch(prefix):
            raise ConfigurationError(f"{address}: option prefix must be 1 to 40 letters, digits, _ or -")
        port = _TLS_PORT if secure else DEFAULT_PORT
        return cls(
            hosts=tuple(Host(host.name, host.port or port) for host in address.hosts or (Host("127.0.0.1"),)),
            tls=TLS.of(address) if secure else None,
            username="guest" if address.username is None else address.username,
            password="guest" if address.password is None else address.password,
            # As every other client has it: no path, or a bare slash, is the virtual host that is called "/".
            virtual_host=address.path.removeprefix("/") or "/",
            prefix=prefix,
            timeout=address.number("timeout", 10, minimum=0.05, maximum=3600),
            heartbeat=address.number("heartbeat", 0, minimum=0, maximum=65_535),
            backoff=address.number("backoff", 2, minimum=0.01),
            dead_letter_ttl=address.number("dead_letter_ttl", _TWO_WEEKS, minimum=1, maximum=4e6),
            max_payload=int(address.number("max_payload", DEFAULT_MAX_PAYLOAD, minimum=1, maximum=512 * 1024 * 1024)),
        )
