"""Many jobs with bounded memory: a window of promises under way, refilled as they end."""

import asyncio
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


_Ended = list[tuple[ItemT, PromiseT | QueError]]


class _Window(Generic[ItemT, PromiseT]):
    """At most `size` items that are under way, or have ended and not been let go."""

    def __init__(self, start: Callable[[ItemT], PromiseT], size: int, drain: Drain) -> None:
        if size < 1:
            raise ConfigurationError(f"in_flight={size}: expected at least 1")
        self._start = start
        self._size = size
        self._drain = drain
        self._under_way: dict[Promise[object], tuple[ItemT, PromiseT]] = {}
        self._ended: _Ended[ItemT, PromiseT] = []
        self._taken = 0
        self._room: asyncio.Future[None] | None = None
        self._news: asyncio.Future[None] | None = None

    async def feed(self, items: Items[ItemT]) -> None:
        """Start every item, waiting for room before each."""
        if isinstance(items, AsyncIterable):
            async for item in items:
                if self._is_full or not self._begin(item):
                    await self._begin_later(item)
        else:
            for item in items:
                if self._is_full or not self._begin(item):
                    await self._begin_later(item)

    @property
    def _is_full(self) -> bool:
        # What has ended and is not let go yet counts too, or a slow reader would fill the memory.
        return len(self._under_way) + len(self._ended) + self._taken >= self._size

    async def _begin_later(self, item: ItemT) -> None:
        while self._is_full:
            self._room = asyncio.get_running_loop().create_future()
            await self._room
        while not self._begin(item):
            await self._drain()

    def _begin(self, item: ItemT) -> bool:
        """Start `item`; return False where too much waits unsent."""
        try:
            promise = self._start(item)
        except Overloaded:
            return False
        except (NotConnected, ConfigurationError):
            # Not this item's fault: every other one would end in the same way.
            raise
        except QueError as error:
            self._ended.append((item, error))
            self.tell()
        else:
            self._under_way[promise] = (item, promise)
            promise.add_done_callback(self._arrived)
        return True

    def _arrived(self, promise: Promise[object]) -> None:
        self._ended.append(self._under_way.pop(promise))
        if self._news is not None:
            self.tell()

    def tell(self, _: object = None) -> None:
        """Wake the reader."""
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def take(self) -> _Ended[ItemT, PromiseT]:
        """Return the items that are done, each to be let go."""
        ended, self._ended = self._ended, []
        self._taken += len(ended)
        return ended

    def let_go(self, count: int) -> None:
        """There is room for `count` items more."""
        self._taken -= count
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    async def wait(self) -> None:
        """Wait until tell() is called."""
        self._news = asyncio.get_running_loop().create_future()
        try:
            await self._news
        finally:
            self._news = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing is under way, or waits to be taken."""
        return not self._under_way and not self._ended

    def abandon(self) -> None:
        """Hear no more of what is under way."""
        for promise in self._under_way:
            promise.remove_done_callback(self._arrived)


async def _flow(window: _Window[ItemT, PromiseT], items: Items[ItemT]) -> AsyncGenerator[_Ended[ItemT, PromiseT], None]:
    """Yield what has ended since the last time; an error of `items` itself is raised after what it gave has ended."""
    feeder = asyncio.get_running_loop().create_task(window.feed(items))
    feeder.add_done_callback(window.tell)
    try:
        while not (feeder.done() and window.is_empty):
            if ended := window.take():
                yield ended
            else:
                await window.wait()
        feeder.result()
    finally:
        window.abandon()
        feeder.cancel()
        await asyncio.wait([feeder])


async def map_jobs(
    submit: Callable[[ItemT], Handle[ResultT]], items: Items[ItemT], in_flight: int, drain: Drain
) -> AsyncIterator[Outcome[ItemT, ResultT]]:
    """Yield an Outcome for each item as it ends."""
    window = _Window(submit, in_flight, drain)
    async with aclosing(_flow(window, items)) as batches:
        async for ended in batches:
            for item, source in ended:
                window.let_go(1)
                yield Outcome(item, source)


async def send_jobs(send: Callable[[ItemT], Sending], items: Items[ItemT], in_flight: int, drain: Drain) -> Sent[ItemT]:
    """Send each item and return the count of those accepted, and each refused one with its error."""
    accepted = 0
    refused: list[Refused[ItemT]] = []
    window = _Window(send, in_flight, drain)
    async with aclosing(_flow(window, items)) as batches:
        async for ended in batches:
            window.let_go(len(ended))
            for item, source in ended:
                error = source if isinstance(source, QueError) else source.error
                if error is None:
                    accepted += 1
                else:
                    refused.append(Refused(item, error))
    return Sent(accepted, refused)
