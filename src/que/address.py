"""Engine URLs: `scheme://user:password@host:port,host:port/path?option=value`, parsed once and never shown whole."""

import re
from collections.abc import Collection

import msgspec

from que.errors import ConfigurationError, InvalidName

MASK = "***"
SCHEME = re.compile("[a-z][a-z0-9+.-]*")
_SECRET_OPTIONS = ("password", "passwd", "pwd", "secret", "token", "key", "auth", "credential")
_OPTION_NAME = re.compile("[A-Za-z0-9_.-]+")


class Host(msgspec.Struct, frozen=True):
    """One server; `port` is None where the URL leaves it to the driver. `str` gives `name:port`, IPv6 in brackets."""

    name: str
    port: int | None = None

    def __str__(self) -> str:
        name = f"[{self.name}]" if ":" in self.name else self.name
        return name if self.port is None else f"{name}:{self.port}"


class Address(msgspec.Struct, frozen=True):
    """An engine's URL in parts. `str` and `repr` hide the password and every option that sounds like a secret."""

    scheme: str
    hosts: tuple[Host, ...] = ()
    username: str | None = None
    password: str | None = None
    path: str = ""
    options: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, url: str) -> "Address":
        """Return the parts of `url`; raises InvalidName, with the password hidden, if it is no engine URL."""
        scheme, separator, rest = url.partition("://")
        if not separator or not SCHEME.fullmatch(scheme.lower()):
            raise InvalidName("engine URL", _masked(url), "expected scheme://host:port, like gearman://127.0.0.1:4730")
        rest, _, query = rest.partition("?")
        authority, slash, path = rest.partition("/")
        credentials, at, servers = authority.rpartition("@")
        username, colon, password = credentials.partition(":")
        return cls(
            scheme=scheme.lower(),
            hosts=tuple(_host(server, url) for server in servers.split(",")) if servers else (),
            username=_unquoted(username) if at and username else None,
            password=_unquoted(password) if colon else None,
            path=slash + _unquoted(path),
            options=_options(query, url),
        )

    def __str__(self) -> str:
        credentials = self.username or ""
        if self.password is not None:
            credentials += f":{MASK}"
        if credentials:
            credentials += "@"
        query = "&".join(f"{name}={MASK if _is_secret(name) else value}" for name, value in self.options)
        servers = ",".join(map(str, self.hosts))
        return f"{self.scheme}://{credentials}{servers}{self.path}" + (f"?{query}" if query else "")

    def __repr__(self) -> str:
        return f"Address({str(self)!r})"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        """What rich shows, as of a traceback's locals: a Struct's own would name every field."""
        return [("url", str(self))]

    def refuse_other_options(self, known: Collection[str]) -> None:
        """Raise ConfigurationError for an option outside `known`, with the nearest known one."""
        for name, _ in self.options:
            if name not in known:
                guess = nearest(name, known)
                hint = f"did you mean {guess}?" if guess else f"known: {', '.join(sorted(known)) or 'none'}"
                raise ConfigurationError(f"{self}: unknown option {name!r}; {hint}")

    def text(self, name: str, default: str = "") -> str:
        """Return option `name`, or `default`."""
        return dict(self.options).get(name, default)

    def flag(self, name: str, default: bool = False) -> bool:
        """Return option `name` as a truth value; raises ConfigurationError for anything but 1/0, true/false, yes/no."""
        value = self.text(name, "1" if default else "0").lower()
        if value not in _FLAGS:
            raise ConfigurationError(f"{self}: option {name} must be 1 or 0, not {value!r}")
        return _FLAGS[value]

    def number(self, name: str, default: float, *, minimum: float, maximum: float = 1e12) -> float:
        """Return option `name` as a number; raises ConfigurationError if it is none or out of bounds."""
        text = self.text(name, str(default))
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not minimum <= value <= maximum:
            bounds = f"from {minimum:g} to {maximum:g}"
            raise ConfigurationError(f"{self}: option {name} must be a number {bounds}, not {text!r}")
        return value


def nearest(name: str, known: Collection[str]) -> str | None:
    """Return the one of `known` that was probably meant, or None."""
    import difflib  # only mistakes pay for it

    return next(iter(difflib.get_close_matches(name, known, 1)), None)


_FLAGS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def _is_secret(name: str) -> bool:
    return any(word in name.lower() for word in _SECRET_OPTIONS)


def _masked(url: str) -> str:
    """Return `url` with what stands before its last @ and all options hidden, whatever its form."""
    scheme, separator, rest = url.partition("://")
    if not SCHEME.fullmatch(scheme.lower()):
        scheme, separator, rest = "", "", url
    # A question mark in a password that was not escaped stands before the @: what follows it is no option.
    _, at, servers = rest.rpartition("@")
    servers, question, _ = servers.partition("?")
    return scheme + separator + (MASK + at if at else "") + servers + (question + MASK if question else "")


def _unquoted(text: str) -> str:
    if "%" not in text:
        return text
    from urllib.parse import unquote  # few URLs need it, and it would be a tenth of `import que`

    return unquote(text)


def _options(query: str, url: str) -> tuple[tuple[str, str], ...]:
    if not query:
        return ()
    from urllib.parse import parse_qsl

    pairs = tuple(parse_qsl(query, keep_blank_values=True))
    names = [name for name, _ in pairs]
    if not all(map(_OPTION_NAME.fullmatch, names)):
        raise InvalidName("engine URL", _masked(url), "an option looks like name=value, and a ? in a password is %3F")
    if len(set(names)) != len(names):
        raise InvalidName("engine URL", _masked(url), "an option stands twice")
    return pairs


def _host(text: str, url: str) -> Host:
    if text.startswith("["):
        name, bracket, port = text[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            raise InvalidName("engine URL", _masked(url), "an IPv6 host looks like [::1]:4730")
        port = port[1:]
    else:
        name, _, port = text.partition(":")
    if not name or not name.isprintable() or " " in name:
        raise InvalidName("engine URL", _masked(url), "a host is empty or holds blanks")
    if not port:
        return Host(name)
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise InvalidName("engine URL", _masked(url), "a port is a number from 1 to 65535")
    return Host(name, int(port))
