"""A job on its way into a transaction of the caller's own."""

import logging
from collections.abc import Generator

from que.driver import Driver, Transacts
from que.errors import QueError, UnsupportedFeature
from que.handle import Receipt, Sending, Watcher
from que.model import Envelope

_log = logging.getLogger("que")


class _Enlisting(Sending):
    """It is queued when this is first awaited, on `connection`."""

    __slots__ = ("_connection", "_driver", "_envelope")

    def __init__(self, watcher: Watcher, driver: Transacts, connection: object, envelope: Envelope) -> None:
        super().__init__(envelope.id, watcher, envelope.function)
        self._driver = driver
        self._connection = connection
        self._envelope: Envelope | None = envelope

    def __await__(self) -> Generator[object, None, Receipt]:
        envelope, self._envelope = self._envelope, None
        if envelope is not None:
            try:
                (reference,) = yield from self._driver.submit_in(self._connection, [envelope]).__await__()
                self.settle_accepted(reference)
            except QueError as error:
                self.settle_failed(error)
            except BaseException:
                self._envelope = envelope
                raise
        return (yield from super().__await__())

    def __del__(self) -> None:
        if self._envelope is not None:
            _log.error("%r is in no transaction: send(…, connection=…) was never awaited", self)


def enlist(watcher: Watcher, driver: Driver, connection: object, envelope: Envelope) -> Sending:
    """Return a sending that queues the job on `connection` when it is awaited; refuse_transaction() has let it pass."""
    assert isinstance(driver, Transacts)
    return _Enlisting(watcher, driver, connection, envelope)


def refuse_transaction(scheme: str, driver: Driver, envelope: Envelope) -> None:
    """Raise UnsupportedFeature unless `driver` can queue this job inside a transaction."""
    if not isinstance(driver, Transacts):
        raise UnsupportedFeature(scheme, "transactional send", "leave connection= out, and send after the commit")
    if not envelope.background:
        hint = "use send(…, connection=…), and app.handle(job, receipt) after the commit"
        raise UnsupportedFeature(scheme, "submit() inside a transaction, whose job cannot end before it", hint)
