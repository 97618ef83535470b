"""Batches that form by themselves: what arrives in one loop tick leaves in one call."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT")

# Each call under way holds a task; a driver that pipelines freely needs a few of them, not one per tick.
_MOST_CALLS = 64


class Batcher(Generic[ItemT]):
    """Hands `call` lists of what `add` was given, in order, at most `calls_in_flight` calls at once.

    While that many are under way the next batch grows (group commit). There are no timers: an item waits for the end
    of the tick, or for a call. The calls run in tasks of the Batcher, so no caller's cancellation can cut one short.
    `call` must not raise: what it raises is reported to the loop's exception handler and the batch is forgotten.
    """

    __slots__ = (
        "_begun",
        "_call",
        "_drains",
        "_idle",
        "_items",
        "_limit",
        "_loop",
        "_tasks",
        "_under_way",
        "_woken",
        "count",
    )

    def __init__(
        self,
        call: Callable[[list[ItemT]], Awaitable[None]],
        calls_in_flight: int | None,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._call = call
        self._limit = _MOST_CALLS if calls_in_flight is None else calls_in_flight
        self._loop = loop
        self._items: list[ItemT] = []
        self._idle: list[asyncio.Future[None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._woken = False
        # The items that wait or are in a call under way.
        self.count: int = 0
        self._begun = 0
        # Calls are numbered from 1; these are under way, the oldest first.
        self._under_way: dict[int, None] = {}
        # Who waits for the end of every call up to a number, the lowest first.
        self._drains: deque[tuple[int, asyncio.Future[None]]] = deque()

    def __len__(self) -> int:
        """The items that wait or are in a call under way."""
        return self.count

    @property
    def waiting(self) -> Sequence[ItemT]:
        """The items that are in no call yet."""
        return self._items

    def add(self, item: ItemT) -> None:
        """Let `item` leave with the next batch."""
        self._items.append(item)
        self.count += 1
        if not self._woken:
            self._wake()

    def extend(self, items: Sequence[ItemT]) -> None:
        """Let all of `items` leave with the next batch."""
        self._items += items
        self.count += len(items)
        if items and not self._woken:
            self._wake()

    async def drain(self) -> None:
        """Wait until every item added so far has been through its call, and for none that is added later."""
        if not self.count:
            return
        last = self._begun + 1 if self._items else self._begun
        waiter = self._loop.create_future()
        self._drains.append((last, waiter))
        await waiter

    async def close(self) -> None:
        """End the Batcher's tasks once no item is left; a cancellation ends them at once: the rest is `waiting`."""
        try:
            while self.count:
                await self.drain()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _wake(self) -> None:
        """Let one task take the items at the end of this tick, if one may."""
        # One that is done was cancelled with its task, as asyncio.run() does at the loop's end.
        while self._idle and self._idle[-1].done():
            self._idle.pop()
        if self._idle:
            self._woken = True
            self._idle.pop().set_result(None)
        elif len(self._tasks) < self._limit:
            self._woken = True
            # Not loop.create_task(): an eager task factory would run the call inside add().
            task = asyncio.Task(self._run(), loop=self._loop)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self) -> None:
        while True:
            self._woken = False
            while self._items and not self._woken:
                await self._take()
            idle = self._loop.create_future()
            self._idle.append(idle)
            try:
                await idle
            except asyncio.CancelledError:
                if idle in self._idle:
                    self._idle.remove(idle)
                raise

    async def _take(self) -> None:
        items, self._items = self._items, []
        self._begun += 1
        number = self._begun
        self._under_way[number] = None
        try:
            await self._call(items)
        except (Exception, asyncio.CancelledError) as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # Also a cancellation of something that the call waited for: it is no reason to stop.
            self._loop.call_exception_handler({"message": "a batch was lost", "exception": error})
        finally:
            self.count -= len(items)
            del self._under_way[number]
            if self._drains:
                self._end_drains()

    def _end_drains(self) -> None:
        """Wake those for whom no call is under way or to come."""
        oldest = next(iter(self._under_way), self._begun + 1)
        while self._drains and self._drains[0][0] < oldest:
            _, waiter = self._drains.popleft()
            if not waiter.done():
                waiter.set_result(None)
