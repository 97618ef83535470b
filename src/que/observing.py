"""A backend at which somebody looks on. It is another class so that one without observers pays nothing for them."""

import contextvars
from collections.abc import MutableMapping, Sequence
from typing import TypeVar

import msgspec

from que.address import Address
from que.backend import Backend
from que.driver import Driver
from que.enlisting import enlist
from que.errors import JobError, NotSent, QueError
from que.handle import Handle, Sending
from que.job import Job
from que.model import Envelope, Failed
from que.observer import Observe, Observer, Told, told
from que.options import Options

ParamsT = TypeVar("ParamsT")
ResultT = TypeVar("ResultT")


class _Announced(Envelope, frozen=True, eq=False, gc=True):
    """An envelope, and who is to be told what becomes of its submission; one that never leaves takes them along."""

    waiting: Sequence[Told] = ()


class ObservedBackend(Backend):
    """A Backend of which `observe` makes the observers."""

    def __init__(
        self,
        alias: str,
        address: Address,
        driver: Driver,
        max_unsent: int,
        watch_timeout: float | None,
        observe: Sequence[Observe],
    ) -> None:
        super().__init__(alias, address, driver, max_unsent, watch_timeout)
        self.observers: Sequence[Observer] = [each(address) for each in observe]
        self._waiting: dict[str, Sequence[Told]] = {}
        self._has_headers = False

    async def connect(self) -> None:
        """Reach the engine."""
        await super().connect()
        self._has_headers = bool(self.driver.capabilities.headers)

    def renew(self) -> None:
        """Start over in a forked child."""
        super().renew()
        self._waiting.clear()

    def prepare(
        self, job: Job[ParamsT, ResultT], params: ParamsT, options: Options, background: bool, posted: int = 0
    ) -> Envelope:
        """Return the job, announced to the observers, with what they have added to its headers."""
        return self._announce(super().prepare(job, params, options, background, posted))

    def post(self, envelope: Envelope) -> Sending:
        """Let an encoded job leave, announced to the observers: what runs here is in nobody's context."""
        return super().post(contextvars.Context().run(self._announce, envelope))

    def _announce(self, envelope: Envelope) -> Envelope:
        headers: MutableMapping[str, str] | None = dict(envelope.headers or {}) if self._has_headers else None
        heard = [told(observer.submitting, envelope, headers) for observer in self.observers]
        facts = msgspec.structs.asdict(envelope)
        facts["headers"] = headers or None
        return _Announced(**facts, waiting=[each for each in heard if each is not None])

    def enlist(self, job: Job[ParamsT, ResultT], params: ParamsT, options: Options) -> Sending:
        """Return a sending that is told of, too, once it is in its transaction."""
        envelope = self.prepare(job, params, options, background=True)
        sending = enlist(self, self.driver, options.connection, envelope)
        sending.add_done_callback(lambda ended: _answer(_waiting_of(envelope), ended.error))
        return sending

    def dispatch(self, envelope: Envelope, promise: Handle[object] | Sending) -> None:
        """Let a prepared job leave, and its observers hear of it."""
        self._waiting[envelope.id] = _waiting_of(envelope)
        super().dispatch(envelope, promise)
        if self._batcher is None:
            self._answer(envelope.id, NotSent(f"{self.address} was disconnected before the job could leave"))

    def _answer(self, id: str, error: QueError | None) -> None:
        _answer(self._waiting.pop(id, ()), error)

    def accepted(self, id: str, receipt: str) -> None:
        """The engine has a job."""
        self._answer(id, None)
        super().accepted(id, receipt)

    def completed(self, id: str, payload: bytes) -> None:
        """A result is here, maybe before the engine's acceptance."""
        self._answer(id, None)
        super().completed(id, payload)

    def failed(self, id: str, failure: Failed) -> None:
        """A worker reported a failure."""
        self._answer(id, None)
        super().failed(id, failure)

    def lost(self, id: str, error: JobError) -> None:
        """The engine had a job."""
        self._answer(id, None)
        super().lost(id, error)

    def _fail(self, id: str, error: QueError) -> None:
        self._answer(id, error)
        super()._fail(id, error)

    def reconnected(self) -> None:
        """A connection to the engine is there again."""
        for observer in self.observers:
            told(observer.reconnected)


def _waiting_of(envelope: Envelope) -> Sequence[Told]:
    return envelope.waiting if isinstance(envelope, _Announced) else ()


def _answer(waiting: Sequence[Told], error: QueError | None) -> None:
    for each in waiting:
        told(each, error)
