"""How a job is to be submitted, apart from its params; a job's own values are the defaults of its calls."""

import math
import time
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import TypedDict

from que.errors import ConfigurationError, UnsupportedFeature
from que.model import Capabilities, Priority


class CallOptions(TypedDict, total=False):
    """The keywords of submit() and send(); what is left out, or None, is the job's default.

    `delay`: seconds from now. `at`: an aware datetime. `unique`: a key for coalescing. `expires`: seconds to wait in
    the queue. `run_timeout`: seconds for one run. `result_ttl`: seconds for which the engine keeps the result after the
    job's end, to be found again by app.handle().
    """

    priority: Priority | None
    delay: float | None
    at: datetime | None
    unique: str | None
    expires: float | None
    run_timeout: float | None
    result_ttl: float | None


def _is_priority(value: object) -> bool:
    return value is None or isinstance(value, Priority)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """CallOptions, checked: raises ConfigurationError for a value that cannot be meant."""

    priority: Priority | None = None
    delay: float | None = None
    at: datetime | None = None
    unique: str | None = None
    expires: float | None = None
    run_timeout: float | None = None
    result_ttl: float | None = None

    def __post_init__(self) -> None:
        for name in ("delay", "expires", "run_timeout", "result_ttl"):
            seconds: object = getattr(self, name)
            is_number = isinstance(seconds, int | float) and math.isfinite(seconds) and seconds >= 0
            if seconds is not None and not is_number:
                raise ConfigurationError(f"{name}={seconds!r}: expected seconds, 0 or more")
        if not _is_priority(self.priority):
            raise ConfigurationError(f"priority={self.priority!r}: expected que.Priority.LOW, NORMAL or HIGH")
        if self.at is not None and self.at.tzinfo is None:
            raise ConfigurationError(f"at={self.at.isoformat()}: expected a datetime with a time zone")
        if self.at is not None and self.delay is not None:
            raise ConfigurationError("delay= and at= exclude each other")
        if self.unique is not None and not self.unique:
            raise ConfigurationError("unique='': expected a key of at least one character, or None")

    def over(self, defaults: "Options") -> "Options":
        """Return these options, with `defaults` where they say nothing."""
        said = {name: value for name in _NAMES if (value := getattr(self, name)) is not None}
        return replace(defaults, **said) if defaults is not NO_OPTIONS else self

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


_NAMES = tuple(field.name for field in fields(Options))
NO_OPTIONS = Options()
