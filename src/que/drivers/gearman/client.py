"""The submitting side: routes jobs to live servers, and tells the core what became of each."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

from que.address import Host
from que.driver import EventSink
from que.drivers.gearman.connection import Connection
from que.drivers.gearman.link import Link
from que.drivers.gearman.mapping import decode_failure, failure_in, function_name, request, wire_unique
from que.drivers.gearman.options import Options
from que.drivers.gearman.ring import Ring
from que.errors import ConnectionLost, InvalidName, JobCancelled, NotSent, PacketError, Rejected, SubmitAmbiguous
from que.gearman.client import Asker, Client
from que.model import Envelope, Failed

_SILENT_FAILURE = Failed("handler", "", "")
# The functions whose names are kept encoded: an app has few, but nothing else bounds them.
_MOST_NAMES = 10_000


class ClientSession:
    """One connection to one server: the machine's events become the core's."""

    connection: Connection

    def __init__(self, owner: "Submitter", host: Host) -> None:
        self.machine: Client[Envelope] = Client(self, owner.options.max_payload)
        self.cancelling: set[str] = set()
        self._owner = owner
        self._events = owner.events
        self._prefix = f"{host}/"
        # Warnings that look like the reason of a failure, by job, until what comes next tells.
        self._reasons: dict[str, bytes] = {}
        self._watch_timer: asyncio.TimerHandle | None = None
        self._generations: deque[frozenset[bytes]] = deque()

    # What the connection calls

    def greet(self, asker: Asker) -> None:
        self.machine.option(b"exceptions", asker)
        self._schedule_sweep()

    def received(self, nbytes: int) -> None:
        self.machine.buffer_updated(nbytes)

    def lost(self, error: Exception) -> None:
        """Each job that the connection held has its outcome, or another connection."""
        if self._watch_timer is not None:
            self._watch_timer.cancel()
        lost = self.machine.lost()
        for envelope in lost.watched:
            self._tell_warning(envelope)
            self._events.lost(envelope.id, ConnectionLost(f"the connection that watched the job is gone: {error}"))
        for envelope in lost.unanswered:
            self._events.refused(envelope.id, SubmitAmbiguous(f"sent, but the connection died unanswered: {error}"))
        if lost.unsent:
            self._owner.send_elsewhere(lost.unsent)

    # What the machine calls

    def accepted(self, token: Envelope, handle: bytes) -> None:
        self._events.accepted(token.id, f"{self._prefix}{handle.decode('utf-8', 'replace')}/{wire_unique(token)}")

    def refused(self, token: Envelope, error: Rejected) -> None:
        self._events.refused(token.id, error)

    def progress(self, token: Envelope, done: int, total: int) -> None:
        self._tell_warning(token)
        self._events.progress(token.id, done, total)

    def chunk(self, token: Envelope, data: bytes) -> None:
        self._tell_warning(token)
        self._events.chunk(token.id, data)

    def warned(self, token: Envelope, data: bytes) -> None:
        self._tell_warning(token)
        if failure_in(data) is None:
            self._events.warned(token.id, data.decode("utf-8", "replace"))
        else:
            self._reasons[token.id] = data

    def completed(self, token: Envelope, payload: bytes) -> None:
        if self._reasons:
            self._tell_warning(token)
        self._events.completed(token.id, payload)

    def failed(self, token: Envelope) -> None:
        failure = failure_in(self._reasons.pop(token.id, b""))
        if token.id in self.cancelling:
            self._events.lost(token.id, JobCancelled("cancelled before it had run"))
        else:
            self._events.failed(token.id, failure or _SILENT_FAILURE)

    def _tell_warning(self, token: Envelope) -> None:
        """A warning that was held back is no failure's reason."""
        warning = self._reasons.pop(token.id, None)
        if warning is not None:
            self._events.warned(token.id, warning.decode("utf-8", "replace"))

    def excepted(self, token: Envelope, data: bytes) -> None:
        self._tell_warning(token)
        self._events.failed(token.id, decode_failure(data))

    async def cancel(self, handle: bytes, ask: Callable[[], Awaitable[bool]]) -> bool:
        """Return what `ask` says; if the job was cancelled, those that watch it here are told so."""
        mine = {envelope.id for envelope in self.machine.watchers(handle)}
        self.cancelling |= mine
        try:
            if not await ask():
                return False
            for envelope in self.machine.forget(handle):
                self.failed(envelope)
            return True
        finally:
            self.cancelling -= mine

    # Jobs that the server never answers

    def _schedule_sweep(self) -> None:
        seconds = self._owner.options.watch_timeout
        if seconds:
            self._watch_timer = asyncio.get_running_loop().call_later(seconds / 4, self._sweep)

    def _sweep(self) -> None:
        """What has been watched for watch_timeout, give or take a quarter, is watched no longer."""
        self._schedule_sweep()
        watched = frozenset(self.machine.handles())
        self._generations.append(watched)
        if len(self._generations) <= 4:
            return
        for handle in self._generations.popleft() & watched:
            for envelope in self.machine.forget(handle):
                self._tell_warning(envelope)
                error = ConnectionLost("no word of the job within watch_timeout: it is watched no longer")
                self._events.lost(envelope.id, error)


class Submitter:
    """All client connections of one driver.

    A job goes to the first live server in its ring's order; without one it waits for at most `submit_timeout`.
    """

    def __init__(
        self, options: Options, links: Mapping[str, Link[ClientSession]], events: EventSink, servers: Sequence[str]
    ) -> None:
        self.options = options
        self.events = events
        self._links = links
        # One server needs no hashing of its keys.
        self._only = servers[0] if len(servers) == 1 else None
        self._ring = Ring(servers)
        self._names: dict[str, bytes] = {}
        self._parked: deque[tuple[float, Envelope]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._unparked: list[asyncio.Future[None]] = []
        self._closed = False

    async def submit(self, envelopes: Iterable[Envelope]) -> None:
        """Each job is with a transport, or has its outcome; waits while its transport is full, or no server is up."""
        touched = self._place(envelopes)
        while self._parked:
            waiter = asyncio.get_running_loop().create_future()
            self._unparked.append(waiter)
            await waiter
        for session in touched:
            if session.connection.congested:
                await session.connection.drained()

    def up(self, session: ClientSession) -> None:
        """A server answers again: what waited for one leaves."""
        waiting, self._parked = self._parked, deque()
        if waiting:
            self._place(envelope for _, envelope in waiting)
        self._release()

    def send_elsewhere(self, envelopes: Sequence[Envelope]) -> None:
        """These never left on their connection: another takes them, or they wait for one."""
        self._place(envelopes)

    def close(self) -> None:
        """What has not left will not; the links are closed next, and their sessions tell the rest."""
        self._closed = True
        parked, self._parked = self._parked, deque()
        for _, envelope in parked:
            self._refuse_unsent(envelope)
        self._release()

    def _place(self, envelopes: Iterable[Envelope]) -> Iterable[ClientSession]:
        """Give each job to its server's machine and flush these once; return their sessions."""
        touched: dict[ClientSession, None] = {}
        # Nothing can come or go within this call, so a lone server is looked up once, not once a job.
        lone = None if self._only is None else _live(self._links[self._only])
        for envelope in envelopes:
            name = self._names.get(envelope.function)
            try:
                kind, leading = request(envelope, self._name(envelope.function) if name is None else name)
                session = lone or self._route(leading)
                if session is None:
                    self._park(envelope)
                    continue
                session.machine.submit(envelope, kind, leading, envelope.payload, not envelope.background)
            except Rejected as error:
                self.events.refused(envelope.id, error)
            except (InvalidName, PacketError) as error:
                self.events.refused(envelope.id, _caused(error))
            else:
                touched[session] = None
        for session in touched:
            session.connection.flush()
        return touched

    def _name(self, function: str) -> bytes:
        if len(self._names) >= _MOST_NAMES:
            self._names.clear()
        return self._names.setdefault(function, function_name(function))

    def _route(self, leading: Sequence[bytes]) -> ClientSession | None:
        for server in self._ring.order(b"\0".join(leading[:2])):
            session = _live(self._links[server])
            if session is not None:
                return session
        return None

    # Jobs without a server

    def _park(self, envelope: Envelope) -> None:
        if self._closed or not self.options.submit_timeout:
            self._refuse_unsent(envelope)
            return
        loop = asyncio.get_running_loop()
        self._parked.append((loop.time() + self.options.submit_timeout, envelope))
        if self._timer is None:
            self._timer = loop.call_at(self._parked[0][0], self._expire)

    def _expire(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        while self._parked and self._parked[0][0] <= now:
            self._refuse_unsent(self._parked.popleft()[1])
        if self._parked:
            self._timer = loop.call_at(self._parked[0][0], self._expire)
        else:
            self._release()

    def _refuse_unsent(self, envelope: Envelope) -> None:
        why = "the driver is disconnected" if self._closed else "no server could be reached in time (submit_timeout)"
        self.events.refused(envelope.id, NotSent(f"not sent: {why}"))

    def _release(self) -> None:
        if self._timer is not None and not self._parked:
            self._timer.cancel()
            self._timer = None
        waiters, self._unparked = self._unparked, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


def _live(link: Link[ClientSession]) -> ClientSession | None:
    return link.session if link.is_up else None


def _caused(error: Exception) -> Rejected:
    rejection = Rejected(str(error))
    rejection.__cause__ = error
    return rejection
