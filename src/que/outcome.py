"""What the calls for many jobs answer."""

from collections.abc import Sequence
from typing import Generic, TypeVar

import msgspec

from que.errors import JobCancelled, JobError, JobFailed, JobTimeout, ParamsInvalid, QueError, ResultInvalid
from que.handle import Handle
from que.model import Failed

ParamsT = TypeVar("ParamsT")
ResultT = TypeVar("ResultT")

_ERRORS: dict[str, type[JobError]] = {
    "params": ParamsInvalid,
    "result": ResultInvalid,
    "timeout": JobTimeout,
    "cancelled": JobCancelled,
}


def error_of(failure: Failed) -> JobError:
    """Return the error of a job whose worker reported `failure`."""
    kind = _ERRORS.get(failure.kind)
    return JobFailed(failure.kind, failure.type, failure.message) if kind is None else kind(failure.message)


class Outcome(msgspec.Struct, Generic[ParamsT, ResultT], frozen=True):
    """One item of map() that has ended: its params, and its result or the error that came instead."""

    params: ParamsT
    source: Handle[ResultT] | QueError

    @property
    def error(self) -> QueError | None:
        """What went wrong, or None."""
        try:
            self.result  # noqa: B018 - asking is what raises
        except QueError as error:
            return error
        return None

    @property
    def result(self) -> ResultT:
        """The result; raises the error if there is one."""
        if isinstance(self.source, QueError):
            raise self.source
        return self.source.peek()


class Refused(msgspec.Struct, Generic[ParamsT], frozen=True):
    """One item of send_many() that the engine did not take, and why."""

    params: ParamsT
    error: QueError


class Sent(msgspec.Struct, Generic[ParamsT], frozen=True):
    """What send_many() did: how many the engine took, and each that it did not."""

    accepted: int
    refused: Sequence[Refused[ParamsT]]
