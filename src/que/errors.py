"""Every error that que raises, in one tree; each says whose fault it was.

QueError
├── ConfigurationError        the program is wrong: fix the declaration, the URL or the call
│   ├── UnknownDriver         no driver is registered for the URL's scheme
│   ├── UnsupportedFeature    the driver, or this server of its kind, cannot do what was asked
│   ├── NotBound              the job belongs to no app yet
│   ├── InvalidName           a job name, key or address that an engine could not carry
│   └── WrongLoop             called from another thread or event loop than the one that connected
├── ConnectError              no server of a backend could be reached
├── NotConnected              used before connect() or after disconnect()
├── SubmitError               a job that was not accepted
│   ├── NotSent               it never left this process: sending it again is safe
│   ├── Rejected              the engine said no
│   │   └── QueueFull         … because its queue is full
│   ├── SubmitAmbiguous       it was sent and the connection died before the answer: it may exist
│   └── Overloaded            too much waits unsent in this process: await drain() first
├── JobError                  a job that was accepted and gave no result
│   ├── JobFailed             its handler raised, or rejected it
│   ├── ParamsInvalid         its params do not fit its type: the sender's fault
│   ├── ResultInvalid         its result does not fit its type: the handler's fault
│   ├── JobTimeout            it ran longer than it may
│   ├── JobExpired            nobody took it in time
│   ├── JobCancelled          it was cancelled
│   ├── JobUnknown            the engine knows nothing of it: its result was not kept, or no longer
│   ├── ConnectionLost        it was accepted and can no longer be watched: it may still run
│   ├── WorkerLost            the process that ran it died: what a middleware and Retry(on=…) see of that
│   └── ResultTimeout         the caller stopped waiting; the job goes on
├── PacketError               a packet of ours that would break the protocol, refused before a byte left
└── ProtocolError             bytes of the peer that break the protocol

Two more are raised by handlers and never by que: Reject and RetryAfter say what becomes of their job.
"""

import math
from collections.abc import Sequence


class QueError(Exception):
    """The root of que's errors. Copies and pickles keep the facts that its attributes hold."""

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.args, dict(self.__dict__))


def _rebuild(kind: type[QueError], args: tuple[object, ...], facts: dict[str, object]) -> QueError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(facts)
    return error


class ConfigurationError(QueError):
    """The program asks for something that cannot be: no retry will help."""


class UnknownDriver(ConfigurationError):
    """No driver is registered for a scheme or alias; `nearest` is the name that was probably meant."""

    def __init__(self, scheme: str, nearest: str | None, known: Sequence[str]) -> None:
        guess = f"; did you mean {nearest}?" if nearest else ";"
        super().__init__(f"no driver for {scheme!r}{guess} known: {', '.join(known)}")
        self.scheme = scheme
        self.nearest = nearest
        self.known: tuple[str, ...] = tuple(known)


class UnsupportedFeature(ConfigurationError):
    """`driver` lacks `feature`; `hint` is a way out."""

    def __init__(self, driver: str, feature: str, hint: str) -> None:
        super().__init__(f"the {driver} driver has no {feature}: {hint}")
        self.driver = driver
        self.feature = feature
        self.hint = hint


class NotBound(ConfigurationError):
    """The job `job` belongs to no app, so it has no backend to go to."""

    def __init__(self, job: str) -> None:
        super().__init__(f"job {job!r} belongs to no app: use app.add(job), or app.submit(job, params)")
        self.job = job


class InvalidName(ConfigurationError):
    """`name` cannot be carried; `reason` says what a valid one looks like."""

    def __init__(self, what: str, name: str | bytes, reason: str) -> None:
        super().__init__(f"invalid {what} {name!r}: {reason}")
        self.what = what
        self.name = name
        self.reason = reason


class WrongLoop(ConfigurationError):
    """An app was used from another thread or event loop than the one in which it was connected."""


class ConnectError(QueError):
    """No server of the backend `backend` (an address without its password) answered."""

    def __init__(self, backend: str, reason: str) -> None:
        super().__init__(f"cannot connect to {backend}: {reason}")
        self.backend = backend
        self.reason = reason

    @classmethod
    def of_all(cls, errors: "Sequence[ConnectError]") -> "ConnectError":
        """Return one that says what `errors` say."""
        return cls(" and ".join(each.backend for each in errors), "; ".join(each.reason for each in errors))


class NotConnected(QueError):
    """The app is not connected: use `async with app`, or connect() first."""


class SubmitError(QueError):
    """A job was not accepted; the subclasses say whether it may exist all the same."""


class NotSent(SubmitError):
    """The job never left this process: submitting it again cannot double it."""


class Rejected(SubmitError):
    """The engine refused the job."""


class QueueFull(Rejected):
    """The engine refused the job because its queue is full."""


class SubmitAmbiguous(SubmitError):
    """The job was sent and the connection died before the answer: it may or may not exist."""


class Overloaded(SubmitError):
    """`limit` jobs wait unsent in this process: `await app.drain()` before submitting more."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} jobs wait unsent: await app.drain() first, or raise max_unsent")
        self.limit = limit


class JobError(QueError):
    """A job that was accepted gave no result."""


class JobFailed(JobError):
    """The worker reported a failure: `kind` of failure, the `type` name of its exception and its `message`.

    `kind` is "handler" (the handler raised), "rejected" (it refused the job) or whatever a foreign worker wrote.
    """

    def __init__(self, kind: str, type: str, message: str) -> None:
        super().__init__(": ".join(part for part in (type, message) if part) or "the worker gave no reason")
        self.kind = kind
        self.type = type
        self.message = message


class ParamsInvalid(JobError):
    """The params do not fit the job's type; the message holds the path and what was expected there."""


class ResultInvalid(JobError):
    """The result does not fit the job's type; the message holds the path and what was expected there."""


class JobTimeout(JobError):
    """The run took longer than the job's run_timeout and was stopped."""


class JobExpired(JobError):
    """Nobody took the job before it expired."""


class JobCancelled(JobError):
    """The job was cancelled before it had a result."""


class JobUnknown(JobError):
    """The engine knows no such job: it has ended and its result was not kept, or no longer."""


class ConnectionLost(JobError):
    """The job was accepted, and the connection that watched it is gone: it may still run, its result is lost to us."""


class WorkerLost(JobError):
    """The process that ran the job died: its worker raises this, its submitter gets JobFailed of kind "crashed"."""


class ResultTimeout(JobError, TimeoutError):
    """The caller's wait ended first: nothing is known of the job, and it goes on."""


class Reject(QueError):
    """Raised by a handler to refuse its job for good: the job fails with this reason and is not retried."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class RetryAfter(QueError):
    """Raised by a handler to have its job run again, not before `seconds` have passed."""

    def __init__(self, seconds: float) -> None:
        if not 0 <= seconds < math.inf:
            raise ConfigurationError(f"RetryAfter({seconds!r}): expected seconds, 0 or more")
        super().__init__(f"run again in {seconds:g} s")
        self.seconds = seconds


class PacketError(QueError):
    """A packet of ours would break the protocol; it was refused before a byte left."""


class ProtocolError(QueError):
    """The peer sent bytes that break the protocol; the connection cannot go on."""
