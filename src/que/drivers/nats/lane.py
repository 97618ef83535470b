"""One function's jobs of one priority: a durable pull consumer, asked for what there is, or to send the next one."""

import asyncio
import os
from collections.abc import Callable
from functools import partial

import msgspec
from nats.aio.msg import Msg

from que.drivers.nats import names
from que.drivers.nats.link import Ear, Link, Silence
from que.drivers.nats.streams import Refused, Streams

SCOUT_SECONDS = 10.0
_LATE_SECONDS = 2.0
_NANOSECONDS = 1_000_000_000

Got = Callable[["Lane", Msg, float], None]


class Lane:
    """`hot`: there may be jobs, so look. When there were none, a scout waits: a pull for one job, whenever it comes.

    A look ends with the answer that there is no more. A scout is called off by no longer listening where it would
    answer; what was on its way arrives still. `got` is given each job with a time of the loop that was before the
    server let go of it.
    """

    def __init__(self, link: Link, streams: Streams, function: str, lane: str, got: Got) -> None:
        self.function: str = function
        self.hot: bool = True
        self._link = link
        self._streams = streams
        self.lane: str = lane
        self._got = got
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{streams.jobs}.{names.durable(function, lane)}"
        self._ear: Ear | None = None
        self._generation = 0
        self._asked_at = 0.0
        self._missing = 0
        self._looking: asyncio.Future[None] | None = None
        self._scout_until: float | None = None
        self._is_open = False
        self._loop = asyncio.get_running_loop()

    async def open(self) -> None:
        """Make sure that there is something to pull from; raises Refused and Silence."""
        if not self._is_open:
            try:
                await self._streams.open_consumer(self.function, self.lane)
            except Refused:
                # The stream may be gone, as it is after a restart of a server that keeps it in memory.
                await self._streams.open()
                await self._streams.open_consumer(self.function, self.lane)
            self._is_open = True
        if self._ear is None:
            self._generation += 1
            hear = partial(self._hear, self._generation)
            self._ear = await self._link.listen(f"_INBOX.{os.urandom(12).hex()}", hear)

    def restart(self) -> None:
        """The connection is gone, and with it what was asked over it."""
        self.hot = True
        self._is_open = False
        self._scout_until = None
        self._end_look()

    async def look(self, limit: int) -> int:
        """Have at most `limit` jobs that are there now given to `got`, and return how many; raises Silence."""
        assert self._ear is not None, "not open"
        self._missing = limit
        self._looking = self._loop.create_future()
        self._asked_at = self._loop.time()
        try:
            await self._link.publish(self._next, b'{"batch":%d,"no_wait":true}' % limit, self._ear.subject)
            async with asyncio.timeout(_LATE_SECONDS):
                await self._looking
        except TimeoutError:
            # Nobody answers for a consumer that is gone, or has no leader.
            self._is_open = False
            raise Silence(f"{self._next} does not answer", sent=True) from None
        finally:
            self._looking = None
        found = limit - self._missing
        self.hot = found > 0
        return found

    @property
    def scouting(self) -> bool:
        """Whether a scout waits."""
        return self._scout_until is not None

    def wait_seconds(self) -> float:
        """Return how long the scout may go on waiting; a server that has not ended it by then has forgotten it."""
        return 0.0 if self._scout_until is None else self._scout_until - self._loop.time()

    async def scout(self) -> None:
        """Have the next job given to `got`, which makes the lane hot; raises Silence."""
        assert self._ear is not None, "not open"
        self._asked_at = self._loop.time()
        self._scout_until = self._asked_at + SCOUT_SECONDS + _LATE_SECONDS
        question = msgspec.json.encode({"batch": 1, "expires": int(SCOUT_SECONDS * _NANOSECONDS)})
        await self._link.publish(self._next, question, self._ear.subject)

    def overdue(self) -> None:
        """The scout was forgotten: look whether the consumer is there still."""
        self._scout_until = None
        self._is_open = False
        self.hot = True

    async def call_off(self) -> None:
        """Return once nothing more can arrive."""
        ear, self._ear = self._ear, None
        self._generation += 1
        self._scout_until = None
        self.hot = True
        if ear is not None:
            await ear.close()

    def _hear(self, generation: int, message: Msg) -> None:
        if generation != self._generation:
            # What a scout brings that was called off.
            self._got(self, message, self._link.as_of)
            return
        since = max(self._asked_at, self._link.as_of)
        if message.reply.startswith("$JS.ACK."):
            if self._looking is not None:
                self._missing -= 1
                if self._missing == 0:
                    self._end_look()
            else:
                self._scout_until = None
                self.hot = True
            self._got(self, message, since)
            return
        status = (message.headers or {}).get("Status")
        if self._looking is not None:
            self._end_look()
        elif status != "100":
            # 408: the scout's time is over, which is when to look whether all is well. 409: the consumer is gone.
            self._scout_until = None
            self.hot = True
            self._is_open &= status == "408"
            self._got(self, message, since)

    def _end_look(self) -> None:
        if self._looking is not None and not self._looking.done():
            self._looking.set_result(None)
