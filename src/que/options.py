"""How a job is to be submitted, apart from its params; a job's own values are the defaults of its calls."""

import math
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TypedDict

import msgspec

from que.errors import ConfigurationError, UnsupportedFeature
from que.headers import checked
from que.model import Capabilities, Priority


class CallOptions(TypedDict, total=False):
    """The keywords of submit() and send(); what is left out, or None, is the job's default.

    `delay`: seconds from now. `at`: an aware datetime. `unique`: a key for coalescing. `expires`: seconds to wait in
    the queue. `run_timeout`: seconds for one run. `result_ttl`: seconds for which the engine keeps the result after the
    job's end, to be found again by app.handle(). `headers`: facts beside the params, short values of printable ASCII by
    lower-case names: `context.headers` where the job runs. `connection`: for send() alone, a connection of the engine's
    own library: the job exists if and only if its transaction is committed.
    """

    priority: Priority | None
    delay: float | None
    at: datetime | None
    unique: str | None
    expires: float | None
    run_timeout: float | None
    result_ttl: float | None
    headers: Mapping[str, str] | None
    connection: object


def _is_seconds(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value >= 0


# An option, what a value of it that can be meant satisfies, and what to say of another one.
_CHECKS: tuple[tuple[str, Callable[[object], bool], str], ...] = (
    ("priority", lambda value: isinstance(value, Priority), "que.Priority.LOW, NORMAL or HIGH"),
    ("delay", _is_seconds, "seconds, 0 or more"),
    ("at", lambda value: isinstance(value, datetime) and value.utcoffset() is not None, "a datetime with a time zone"),
    ("unique", lambda value: isinstance(value, str) and value != "", "a key of at least one character"),
    ("expires", _is_seconds, "seconds, 0 or more"),
    ("run_timeout", lambda value: _is_seconds(value) and value != 0, "seconds, more than 0"),
    ("result_ttl", _is_seconds, "seconds, 0 or more"),
)


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """CallOptions, checked: raises ConfigurationError for a value that cannot be meant."""

    priority: Priority | None = None
    delay: float | None = None
    at: datetime | None = None
    unique: str | None = None
    expires: float | None = None
    run_timeout: float | None = None
    result_ttl: float | None = None
    headers: Mapping[str, str] | None = None
    connection: object = None

    def __post_init__(self) -> None:
        for name, is_meant, expected in _CHECKS:
            value: object = getattr(self, name)
            if value is not None and not is_meant(value):
                raise ConfigurationError(f"{name}={value!r}: expected {expected}")
        if self.at is not None and self.delay is not None:
            raise ConfigurationError("delay= and at= exclude each other")
        if self.headers is not None:
            msgspec.structs.force_setattr(self, "headers", checked(self.headers))

    def __rich_repr__(self) -> list[tuple[str, object]]:
        """Return what is said, but for the headers, which may be secrets."""
        said: list[tuple[str, object]] = [(name, getattr(self, name)) for name in _NAMES if name != "headers"]
        return [(name, value) for name, value in said if value is not None]

    def __repr__(self) -> str:
        return f"Options({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def over(self, defaults: "Options") -> "Options":
        """Return these options, with `defaults` where they say nothing."""
        said = {name: value for name in _NAMES if (value := getattr(self, name)) is not None}
        return msgspec.structs.replace(defaults, **said) if defaults is not NO_OPTIONS else self

    def due(self) -> float | None:
        """Return the Unix time before which the job must not run, or None."""
        if self.at is not None:
            return self.at.timestamp()
        return None if self.delay is None else time.time() + self.delay

    def refuse_unsupported(self, driver: str, can: Capabilities, *, background: bool, per_call: bool) -> None:
        """Raise UnsupportedFeature for the first option that `driver` lacks.

        A job's own run_timeout is kept by its worker; only one call's (`per_call`) has to travel.
        """
        delayed = self.delay is not None or self.at is not None
        checks = (
            (delayed, can.delay, "delay", "send it later yourself, or use an engine that can delay"),
            (delayed and not background, can.delayed_results, "delay for a job that is awaited", "use send()"),
            (self.priority not in (None, Priority.NORMAL), can.priorities, "priorities", "leave priority= out"),
            (self.unique is not None, can.unique, "unique keys", "leave unique= out and make the job idempotent"),
            (self.expires is not None, can.expiry, "expiry", "leave expires= out and check the time in the handler"),
            (self.result_ttl is not None, can.results_stored, "kept results", "await the handle that submit() returns"),
            (bool(self.headers), can.headers, "headers", "make what they say a part of the params"),
            (
                per_call and self.run_timeout is not None,
                can.run_timeout,
                "run_timeout per call",
                "declare it on the job: @app.job(..., run_timeout=…)",
            ),
        )
        for wanted, support, feature, hint in checks:
            if wanted and not support:
                raise UnsupportedFeature(driver, feature, hint)


_NAMES = Options.__struct_fields__
NO_OPTIONS = Options()
