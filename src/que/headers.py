"""Facts that travel beside the params: the names and values that every engine with a place for them can carry."""

import re
from collections.abc import Mapping
from typing import cast

from que.errors import ConfigurationError

# What an engine, or its driver, writes itself.
_TAKEN = ("que-", "x-que-", "nats-", "x-death", "x-delivery-", "x-acquired-", "x-first-death-", "x-last-death-")
_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,64}")
# Printable ASCII, with no blank at either end: a line in NATS, a string in AMQP.
_VALUE = re.compile(r"(?:[!-~](?:[ -~]*[!-~])?)?")
# Engines keep room for so much, and a message whose headers fill more than a frame would cost the connection.
_MOST_CHARACTERS = 4096


def fits(name: str, value: str) -> bool:
    """Return whether every engine that has headers can carry this one."""
    return _NAME.fullmatch(name) is not None and _VALUE.fullmatch(value) is not None


def has_room(headers: Mapping[str, str]) -> bool:
    """Return whether all of `headers` together are small enough."""
    return sum(len(name) + len(value) for name, value in headers.items()) <= _MOST_CHARACTERS


def checked(headers: object) -> Mapping[str, str]:
    """Return a copy of what a user gave as headers; raises ConfigurationError, which tells no value."""
    if not isinstance(headers, Mapping):
        raise ConfigurationError("headers=: expected a mapping of names to values, both str")
    given: dict[str, str] = {}
    for name, value in cast(Mapping[object, object], headers).items():
        if not isinstance(name, str) or _NAME.fullmatch(name) is None:
            raise ConfigurationError(f"headers=: the name {name!r}: expected 1 to 64 of a-z, 0-9, -, _ and the like")
        if name.startswith(_TAKEN):
            raise ConfigurationError(f"headers=: the name {name!r} begins like those of an engine: choose another")
        if not isinstance(value, str) or _VALUE.fullmatch(value) is None:
            raise ConfigurationError(
                f"headers=: the value of {name!r}: expected a str of printable ASCII without a blank at either end"
            )
        given[name] = value
    if not has_room(given):
        raise ConfigurationError(f"headers=: more than {_MOST_CHARACTERS} characters: put what is long into the params")
    return given
