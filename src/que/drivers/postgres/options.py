"""What a `postgresql://` URL says: the database, the schema in it, and how it is used."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from que.address import Address
from que.errors import ConfigurationError

OWN_OPTIONS = ("schema", "migrate", "listen", "poll", "timeout", "lease", "dead_letter_ttl", "connections", "backoff")
# Passed on to libpq, which knows what they mean.
LIBPQ_OPTIONS = (
    "application_name",
    "channel_binding",
    "gssencmode",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "krbsrvname",
    "options",
    "passfile",
    "require_auth",
    "service",
    "sslcert",
    "sslcrl",
    "sslcrldir",
    "sslkey",
    "sslmode",
    "sslnegotiation",
    "sslpassword",
    "sslrootcert",
    "ssl_min_protocol_version",
    "target_session_attrs",
    "tcp_user_timeout",
)
# The socket's directory, or what else a URL's authority cannot spell.
_PLACES = ("host", "port", "user", "password", "dbname")
# Safe between double quotes as an identifier and between single ones as text; PostgreSQL cuts names at 63 bytes.
_SCHEMA = re.compile("[A-Za-z_][A-Za-z0-9_-]{0,39}")
_TWO_WEEKS = 14 * 86_400.0


@dataclass(frozen=True, slots=True)
class PostgresOptions:
    """`connection`: libpq's parameters. The rest is seconds, but for the names.

    `lease`: after that long without a renewal a job goes to another worker. `poll`: how often a process looks for what
    no notification told. `timeout`: how long one operation may take.
    """

    connection: Mapping[str, str]
    schema: str
    migrate: bool
    listen: bool
    poll: float
    timeout: float
    lease: float
    dead_letter_ttl: float
    connections: int
    backoff: float

    @classmethod
    def parse(cls, address: Address) -> "PostgresOptions":
        """Return the options; raises ConfigurationError for what cannot be meant."""
        address.refuse_other_options((*OWN_OPTIONS, *LIBPQ_OPTIONS, *_PLACES))
        schema = address.text("schema", "que")
        if not _SCHEMA.fullmatch(schema) or schema.lower().startswith("pg_"):
            raise ConfigurationError(
                f"{address}: option schema={schema!r}: expected at most 40 letters, digits, _ and -, a letter first,"
                " and not pg_, which is PostgreSQL's own"
            )
        listen = address.flag("listen", True)
        lease = address.number("lease", 30, minimum=0.1, maximum=86_400)
        return cls(
            connection=_connection(address),
            schema=schema,
            migrate=address.flag("migrate", True),
            listen=listen,
            poll=address.number("poll", min(1, lease / 2) if listen else 0.1, minimum=0.01, maximum=3600),
            timeout=address.number("timeout", 10, minimum=0.1, maximum=3600),
            lease=lease,
            dead_letter_ttl=address.number("dead_letter_ttl", _TWO_WEEKS, minimum=0),
            connections=int(address.number("connections", 4, minimum=2, maximum=100)),
            backoff=address.number("backoff", 5, minimum=0.01, maximum=3600),
        )


def _connection(address: Address) -> dict[str, str]:
    given = {name: value for name, value in address.options if name not in OWN_OPTIONS}
    hosts = {"host": ",".join(host.name for host in address.hosts), "port": ",".join(_ports(address))}
    said = {**hosts, "user": address.username or "", "password": address.password or ""}
    said["dbname"] = address.path.removeprefix("/")
    for name in _PLACES:
        if said[name] and name in given:
            raise ConfigurationError(f"{address}: the URL says {name} twice")
    defaults = {"application_name": "que"}
    if len(address.hosts) > 1:
        # A standby can neither queue nor be listened to.
        defaults["target_session_attrs"] = "read-write"
    return {**defaults, **{name: value for name, value in said.items() if value}, **given}


def _ports(address: Address) -> list[str]:
    return [str(host.port or 5432) for host in address.hosts]
