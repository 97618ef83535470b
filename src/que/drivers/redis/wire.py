"""The one place that knows redis-py: it opens connections, and says whose fault an error was."""

from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from typing import Protocol, cast

from que.address import Host
from que.drivers.redis.options import DEFAULT_PORT, RedisOptions
from que.errors import ConfigurationError
from que.tls import TLS

_READ_BYTES = 256 * 1024
# Answers of a server that is not, or no longer, the one to talk to: what was asked has not been done.
_ELSEWHERE = frozenset({"READONLY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "MOVED", "ASK", "TRYAGAIN"})
# redis-py has taken the first word of these errors away, and made a class of it.
_CODES = {
    "NoScriptError": "NOSCRIPT",
    "OutOfMemoryError": "OOM",
    "ReadOnlyError": "READONLY",
    "BusyLoadingError": "LOADING",
    "MasterDownError": "MASTERDOWN",
    "ClusterDownError": "CLUSTERDOWN",
    "MovedError": "MOVED",
    "TryAgainError": "TRYAGAIN",
    "AskError": "ASK",
}


class Wire(Protocol):
    """What is used of redis-py's connections."""

    async def connect(self) -> None: ...
    async def disconnect(self, nowait: bool = False) -> None: ...
    def pack_command(self, *args: str | bytes | int) -> list[bytes]: ...
    async def send_packed_command(self, command: Iterable[bytes], check_health: bool = True) -> None: ...
    async def read_response(self, disable_decoding: bool = False) -> object: ...


class Lost(Exception):
    """The connection is gone, or another server is the one to ask. `sent`: the command may have been carried out."""

    def __init__(self, reason: str, sent: bool) -> None:
        super().__init__(reason)
        self.sent = sent


class Refused(Exception):
    """The server answered a command with an error; `code` is NOSCRIPT, OOM or nothing that matters."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


def require() -> None:
    """Raise ConfigurationError unless redis-py is installed."""
    if find_spec("redis") is None:
        raise ConfigurationError("redis:// takes the package redis: pip install 'que-jobs[redis]'")


def make_wire(options: RedisOptions, host: Host) -> Wire:
    """Return a connection to `host` that has not been opened yet."""
    from redis.asyncio import connection

    kind = connection.Connection if options.tls is None else connection.SSLConnection
    return cast(Callable[..., Wire], kind)(
        host=host.name,
        port=host.port or DEFAULT_PORT,
        db=options.database,
        username=options.username,
        password=options.password,
        # A blocking read takes as long as it takes: Link has deadlines of its own.
        socket_timeout=None,
        socket_connect_timeout=options.timeout,
        socket_read_size=_READ_BYTES,
        # The shape of its replies does not depend on redis-py's version.
        protocol=2,
        **({} if options.tls is None else _secured(options.tls)),
    )


def _secured(tls: TLS) -> Mapping[str, object]:
    return {
        "ssl_cert_reqs": "required",
        # Not every version of redis-py has it on by itself.
        "ssl_check_hostname": True,
        "ssl_ca_certs": tls.cafile or None,
        "ssl_certfile": tls.certfile or None,
        "ssl_keyfile": tls.keyfile or None,
    }


def answered(error: Exception) -> "Refused | Lost":
    """Return whose fault it was that redis-py raised `error` while a reply was read."""
    from redis import exceptions as known

    text = str(error) or repr(error)
    code = next((code for name, code in _CODES.items() if isinstance(error, getattr(known, name))), "")
    if code in _ELSEWHERE or "-READONLY" in text:
        return Lost(f"{code} {text}", sent=False)
    if not isinstance(error, known.ResponseError):
        return Lost(text, sent=True)
    # Inside a script the server's own error stands somewhere in the text.
    return Refused("OOM" if "'maxmemory'" in text else code, text)
