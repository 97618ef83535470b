"""The Gearman driver: one URL, all of its servers."""

import asyncio
import logging
import ssl
from collections.abc import Collection, Sequence

from msgspec.structs import replace

from que.address import Address, Host
from que.driver import ConsumerSink, EventSink
from que.drivers.gearman.admin import GearmanAdmin
from que.drivers.gearman.client import ClientSession, Submitter
from que.drivers.gearman.connection import Answer
from que.drivers.gearman.consumer import GearmanConsumer
from que.drivers.gearman.link import Link, first_answers
from que.drivers.gearman.mapping import Receipt, function_name, wire_unique
from que.drivers.gearman.options import DEFAULT_PORT, Options
from que.errors import ConfigurationError, ConnectError, InvalidName, NotConnected, NotSent, QueError
from que.gearman.client import job_status
from que.model import Capabilities, Envelope, JobStatus, Lease, QueueDepth, Support, UniqueScope

_log = logging.getLogger("que.gearman")
# Once one server has answered, how long the others may take before connect() leaves them to the background.
_PATIENCE_SECONDS = 0.5


class GearmanDriver:
    """Jobs on gearmand, foreground and background; `address` is a gearman:// or gearmans:// URL, see Options.

    A job's server is found by consistent hashing of function and unique, so that equal keys meet; while that server is
    down the next one stands in. What Gearman can lose: foreground jobs with their connection, background jobs with
    their server unless it has a persistent queue.
    """

    calls_in_flight: int | None = None

    def __init__(self, address: Address) -> None:
        self._address = address
        self._options = Options.of(address)
        self._links: dict[str, Link[ClientSession]] = {}
        self._submitter: Submitter | None = None
        self._consumers: list[GearmanConsumer] = []
        self._tls: ssl.SSLContext | None = None

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            lease=Lease.CONNECTION,
            durable=Support.NATIVE if self._options.durable else Support.NONE,
            results_pushed=Support.NATIVE,
            delay=Support.NATIVE,
            unique=Support.NATIVE,
            unique_scope=UniqueScope.WHILE_ALIVE,
            priorities=Support.NATIVE,
            progress=Support.NATIVE,
            chunks=Support.NATIVE,
            cancel_queued=Support.NATIVE,
            inspect=Support.NATIVE,
            max_payload=self._options.max_payload,
        )

    @property
    def links_up(self) -> list[str]:
        """The servers to which jobs can be submitted now."""
        return [server for server, link in self._links.items() if link.is_up]

    async def connect(self, events: EventSink) -> None:
        """Succeeds once one server has answered and warns of the others; raises ConnectError if none does."""
        if self._submitter is not None:
            raise ConfigurationError(f"{self._address} is connected already")
        self._tls = self._options.tls.context() if self._options.tls else None
        links: dict[str, Link[ClientSession]] = {}
        submitter = self._submitter = Submitter(self._options, links, events, list(map(str, self._options.hosts)))
        for host in self._options.hosts:
            links[str(host)] = self._link(host, submitter)
        self._links = links
        try:
            failures = await first_answers(list(links.values()), _PATIENCE_SECONDS)
            if not self.links_up:
                raise ConnectError(str(self._address), "; ".join(f"{host}: {error}" for host, error in failures))
        except BaseException:
            await self.disconnect()
            raise

    def _link(self, host: Host, submitter: Submitter) -> Link[ClientSession]:
        return Link(
            host,
            self._options,
            self._tls,
            "client",
            lambda link: ClientSession(submitter, link.host),
            submitter.up,
            submitter.events.reconnected,
        )

    async def disconnect(self) -> None:
        submitter, self._submitter = self._submitter, None
        links, self._links = self._links, {}
        consumers, self._consumers = self._consumers, []
        if submitter is not None:
            submitter.close()
        why = ConnectionAbortedError("the driver was disconnected")
        endings = [link.close(why) for link in links.values()]
        await asyncio.gather(*endings, *(consumer.disconnect() for consumer in consumers))

    async def submit(self, envelopes: Sequence[Envelope]) -> None:
        if self._submitter is None:
            raise NotSent("not sent: the driver is not connected")
        await self._submitter.submit(envelopes)

    async def register(self, functions: Collection[str], slots: int, notices: ConsumerSink) -> GearmanConsumer:
        """Raises InvalidName for a function that Gearman cannot carry, ConnectError if no server answers."""
        if self._submitter is None:
            raise NotConnected("connect() the driver before it can consume")
        names = {function_name(function): function for function in functions}
        if not names or slots < 1:
            raise ConfigurationError("a consumer needs at least one function and one slot")
        consumer = GearmanConsumer(self._options, self._tls, names, slots, notices, self._submitter.events.reconnected)
        self._consumers.append(consumer)
        try:
            failures = await consumer.connect(_PATIENCE_SECONDS)
            if not consumer.connected:
                raise ConnectError(str(self._address), "; ".join(f"{host}: {error}" for host, error in failures))
        except BaseException:
            await consumer.disconnect()
            raise
        self._consumers = [other for other in self._consumers if not other.finished]
        return consumer

    async def status(self, receipt: str) -> JobStatus:
        """Return what the receipt's server says; raises InvalidName, NotConnected or ConnectError.

        A handle is believed only while the unique is known: after a restart the server gives handles anew.
        """
        named = Receipt.parse(receipt)
        by_handle, by_unique = await self._ask(self._session(named), named)
        if by_handle.known and by_unique.known:
            return JobStatus(True, by_handle.running, by_handle.done, by_handle.total, by_unique.waiting)
        return by_unique

    async def cancel(self, receipt: str) -> bool:
        """Take a job that is still queued away and return True; those that watch it here learn that it was cancelled.

        The server forgets the job only when a worker would have taken it; until then its unique is not free again.
        False for a job that runs, for Gearman cannot stop its worker, for one that is gone, and where the handle can be
        seen to name another job than the unique. It cannot always: after the restart of a server with a persistent
        queue the handles of old receipts name other jobs, so do not cancel by them.
        """
        named = Receipt.parse(receipt)
        session = self._session(named)
        handle = named.handle.encode()
        by_handle, by_unique = await self._ask(session, named)
        if not by_handle.known or by_handle.running or by_handle != replace(by_unique, waiting=None):
            return False
        if any(wire_unique(envelope) != named.unique for envelope in session.machine.watchers(handle)):
            return False
        return await session.cancel(handle, lambda: self._cancel(named))

    async def _cancel(self, named: Receipt) -> bool:
        host = next(link.host for server, link in self._links.items() if server == named.server)
        async with self._admin(host) as admin:
            return await admin.cancel(named.handle)

    def _session(self, named: Receipt) -> ClientSession:
        if self._submitter is None:
            raise NotConnected("the driver is not connected")
        link = self._links.get(named.server)
        if link is None:
            raise InvalidName("receipt", str(named), f"its server is not one of {', '.join(self._links)}")
        if link.session is None or not link.is_up:
            raise ConnectError(named.server, "the connection is down at the moment")
        return link.session

    async def _ask(self, session: ClientSession, named: Receipt) -> tuple[JobStatus, JobStatus]:
        by_handle, by_unique = Answer(), Answer()
        session.machine.status(named.handle.encode(), by_handle)
        session.machine.status_unique(named.unique.encode(), by_unique)
        session.connection.flush()
        try:
            first, second = await asyncio.gather(by_handle.future, by_unique.future)
        except OSError as error:
            raise ConnectError(named.server, str(error)) from error
        return job_status(first), job_status(second)

    async def depths(self) -> Sequence[QueueDepth]:
        """Return each function's figures, summed over the servers that answer; raises ConnectError if none does."""
        answers = await asyncio.gather(*map(self._depths, self._options.hosts), return_exceptions=True)
        errors = [answer for answer in answers if isinstance(answer, BaseException)]
        for error in errors:
            if not isinstance(error, QueError):
                raise error
        if len(errors) == len(answers):
            raise ConnectError(str(self._address), "; ".join(map(str, errors)))
        for error in errors:
            _log.warning("the depths lack a server: %s", error)
        return _summed([depth for answer in answers if not isinstance(answer, BaseException) for depth in answer])

    async def _depths(self, host: Host) -> list[QueueDepth]:
        async with self._admin(host) as admin:
            rows = await admin.status()
        return [QueueDepth(row.function, row.queued - row.running, row.running, row.workers) for row in rows]

    def _admin(self, host: Host) -> GearmanAdmin:
        tls = self._options.tls
        return GearmanAdmin(
            host.name,
            host.port or DEFAULT_PORT,
            timeout=self._options.connect_timeout,
            tls=self._tls,
            server_hostname=tls.server_hostname if tls else "",
        )


def _summed(depths: list[QueueDepth]) -> list[QueueDepth]:
    total: dict[str, QueueDepth] = {}
    for depth in depths:
        name = depth.function
        old = total.get(name, QueueDepth(name, 0, 0, 0))
        total[name] = QueueDepth(
            name, old.queued + depth.queued, old.running + depth.running, old.workers + depth.workers
        )
    return list(total.values())
