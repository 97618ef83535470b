"""Who looks on while jobs are submitted and worked: tracing, metrics, or what a user writes."""

import logging
from collections.abc import Callable, Iterable, MutableMapping, Sequence
from typing import ParamSpec, TypeVar

from que.address import Address
from que.driver import Consumer
from que.errors import QueError
from que.job import Context, Next
from que.model import Delivery, Envelope, Settled, Settlement, Verdict

P = ParamSpec("P")
ValueT = TypeVar("ValueT")

Told = Callable[[QueError | None], None]

_log = logging.getLogger("que")


class Observer:
    """Looks on at one engine; each method does nothing, for whoever overrides it.

    An exception that leaves run() ends the run, as one of any middleware does. One that leaves another method is
    logged, and costs nobody a job.
    """

    def submitting(self, envelope: Envelope, headers: MutableMapping[str, str] | None) -> Told | None:
        """A job is about to be submitted, in the thread and context of whoever submits it.

        `headers`: those of the job, to which more may be added; None where the engine has no place for them. What is
        returned is called once: with None when the engine has the job, or with the error that it was refused with.
        """
        return None

    async def run(self, context: Context[object], params: object, call_next: Next) -> object:
        """Each run of a job, in a worker: the outermost middleware."""
        return await call_next(params)

    def settled(self, delivery: Delivery, verdict: Verdict | None, outcome: Settled) -> None:
        """A worker is rid of a job, and this became of its verdict; None: its lease was gone before there was one."""

    def reconnected(self) -> None:
        """A connection to the engine that was lost is there again."""


Observe = Callable[[Address], Observer]


def told(call: Callable[P, ValueT], *args: P.args, **kwargs: P.kwargs) -> ValueT | None:
    """Return what `call` returns; an error is logged, since looking on must not cost a job."""
    try:
        return call(*args, **kwargs)
    except Exception:
        _log.exception("an observer failed: %r", call)
        return None


def tell_settled(observers: Iterable[Observer], delivery: Delivery, verdict: Verdict | None, outcome: Settled) -> None:
    """Tell each of `observers` that a worker is rid of a job."""
    for observer in observers:
        told(observer.settled, delivery, verdict, outcome)


class ObservedConsumer:
    """A consumer whose observers are told what became of each verdict."""

    def __init__(self, consumer: Consumer, observers: Sequence[Observer]) -> None:
        self._consumer = consumer
        self._observers = observers

    async def reserve(self, limit: int) -> Sequence[Delivery]:
        """Return what the consumer does."""
        return await self._consumer.reserve(limit)

    async def close(self) -> None:
        """Close the consumer."""
        await self._consumer.close()

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        """Return what the consumer does, once it has been told."""
        outcomes: Sequence[Settled] = [Settled.UNCONFIRMED] * len(settlements)
        try:
            outcomes = await self._consumer.settle(settlements)
        finally:
            for (delivery, verdict), outcome in zip(settlements, outcomes, strict=True):
                tell_settled(self._observers, delivery, verdict, outcome)
        return outcomes
