"""Many jobs with bounded memory: a window of promises under way, refilled as they end."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing
from typing import Generic, TypeVar

from que.errors import ConfigurationError, NotConnected, Overloaded, QueError
from que.handle import Handle, Promise, Sending
from que.outcome import Outcome, Refused, Sent

ItemT = TypeVar("ItemT")
ValueT = TypeVar("ValueT")
ResultT = TypeVar("ResultT")
PromiseT = TypeVar("PromiseT", bound=Promise[object])

Items = Iterable[ItemT] | AsyncIterable[ItemT]
Drain = Callable[[], Awaitable[None]]


class _Window(Generic[ItemT, PromiseT]):
    """At most `size` promises under way; `ended` collects the items that are done, with their promises or errors."""

    def __init__(self, start: Callable[[ItemT], PromiseT], size: int, drain: Drain) -> None:
        if size < 1:
            raise ConfigurationError(f"in_flight={size}: expected at least 1")
        self.ended: deque[tuple[ItemT, PromiseT | QueError]] = deque()
        self._start = start
        self._size = size
        self._drain = drain
        self._under_way: dict[Promise[object], tuple[ItemT, PromiseT]] = {}
        self._room: asyncio.Future[None] | None = None
        self._news: asyncio.Future[None] | None = None

    async def feed(self, items: Items[ItemT]) -> None:
        """Start every item, waiting for room before each."""
        if isinstance(items, AsyncIterable):
            async for item in items:
                await self._add(item)
        else:
            for item in items:
                await self._add(item)

    async def _add(self, item: ItemT) -> None:
        # What has ended and is not taken yet counts too, or a slow reader would fill the memory.
        while len(self._under_way) + len(self.ended) >= self._size:
            self._room = asyncio.get_running_loop().create_future()
            await self._room
        try:
            promise = await self._started(item)
        except (NotConnected, ConfigurationError):
            # Not this item's fault: every other one would end in the same way.
            raise
        except QueError as error:
            self.ended.append((item, error))
            self.tell()
            return
        self._under_way[promise] = (item, promise)
        promise.add_done_callback(self._arrived)

    async def _started(self, item: ItemT) -> PromiseT:
        while True:
            try:
                return self._start(item)
            except Overloaded:
                await self._drain()

    def _arrived(self, promise: Promise[object]) -> None:
        self.ended.append(self._under_way.pop(promise))
        self.tell()

    def tell(self, _: object = None) -> None:
        """Wake the reader."""
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def take(self) -> tuple[ItemT, PromiseT | QueError]:
        """Return one item that is done, and make room for another."""
        taken = self.ended.popleft()
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        return taken

    async def wait(self) -> None:
        """Wait until tell() is called."""
        self._news = asyncio.get_running_loop().create_future()
        await self._news

    @property
    def is_empty(self) -> bool:
        """Whether nothing is under way."""
        return not self._under_way

    def abandon(self) -> None:
        """Hear no more of what is under way."""
        for promise in self._under_way:
            promise.remove_done_callback(self._arrived)


async def _flow(
    start: Callable[[ItemT], PromiseT], items: Items[ItemT], in_flight: int, drain: Drain
) -> AsyncGenerator[tuple[ItemT, PromiseT | QueError], None]:
    window = _Window(start, in_flight, drain)
    feeder = asyncio.get_running_loop().create_task(window.feed(items))
    feeder.add_done_callback(window.tell)
    try:
        while True:
            while window.ended:
                yield window.take()
            if not feeder.done() or not window.is_empty:
                await window.wait()
            elif not window.ended:
                break
        feeder.result()
    finally:
        window.abandon()
        feeder.cancel()
        await asyncio.wait([feeder])


async def map_jobs(
    submit: Callable[[ItemT], Handle[ResultT]], items: Items[ItemT], in_flight: int, drain: Drain
) -> AsyncIterator[Outcome[ItemT, ResultT]]:
    """Yield an Outcome for each item as it ends; an error of `items` itself is raised after what it gave has ended."""
    async with aclosing(_flow(submit, items, in_flight, drain)) as ended:
        async for item, source in ended:
            yield Outcome(item, source)


async def send_jobs(send: Callable[[ItemT], Sending], items: Items[ItemT], in_flight: int, drain: Drain) -> Sent[ItemT]:
    """Send each item and return the count of those accepted, and each refused one with its error."""
    accepted = 0
    refused: list[Refused[ItemT]] = []
    async with aclosing(_flow(send, items, in_flight, drain)) as ended:
        async for item, source in ended:
            error = source if isinstance(source, QueError) else source.error
            if error is None:
                accepted += 1
            else:
                refused.append(Refused(item, error))
    return Sent(accepted, refused)
