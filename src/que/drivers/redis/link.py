"""One connection, pipelined: whatever is asked in one tick leaves in one write, and replies come in order."""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from que.drivers.redis.wire import Lost, Refused, Wire, answered

Reply = object


class Link:
    """Commands and the futures of their replies.

    A caller that is cancelled drops its future only: the reply is still read, so that no other caller can get it. When
    a reply takes longer than `patience` seconds the connection counts as dead. `on_end` is called once, with
    the reason.
    """

    def __init__(self, wire: Wire, patience: float) -> None:
        self.on_end: Callable[[Exception], None] | None = None
        self._wire = wire
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._unsent: list[tuple[list[bytes], asyncio.Future[Reply]]] = []
        self._asked: deque[tuple[float, asyncio.Future[Reply]]] = deque()
        self._something = asyncio.Event()
        self._error: Exception | None = None
        self._tasks = [self._loop.create_task(self._write()), self._loop.create_task(self._read())]
        self._watchdog = self._loop.call_later(patience, self._watch)

    def ask(self, *command: str | bytes | int) -> asyncio.Future[Reply]:
        """Send a command and return the future of its reply; it raises Refused, or Lost."""
        reply: asyncio.Future[Reply] = self._loop.create_future()
        if self._error is not None:
            reply.set_exception(Lost(str(self._error), sent=False))
        else:
            self._unsent.append((self._wire.pack_command(*command), reply))
            self._something.set()
        return reply

    async def _write(self) -> None:
        while True:
            await self._something.wait()
            self._something.clear()
            unsent, self._unsent = self._unsent, []
            now = self._loop.time()
            self._asked += [(now, reply) for _, reply in unsent]
            try:
                await self._wire.send_packed_command([part for parts, _ in unsent for part in parts], False)
            except Exception as error:
                self.end(error)
                return

    async def _read(self) -> None:
        while True:
            answer: Reply = None
            error: Lost | Refused | None = None
            try:
                answer = await self._wire.read_response(disable_decoding=True)
            except Exception as raised:
                error = answered(raised)
                if isinstance(error, Lost) and error.sent:
                    self.end(error)
                    return
            if not self._asked:
                self.end(ConnectionError("an answer to no question"))
                return
            _, reply = self._asked.popleft()
            if not reply.done():
                _settle(reply, answer, error)
            if isinstance(error, Lost):
                self.end(error)
                return

    def _watch(self) -> None:
        now = self._loop.time()
        oldest = self._asked[0][0] if self._asked else now
        if now - oldest >= self._patience:
            self.end(TimeoutError(f"no answer within {self._patience:g} s"))
        else:
            self._watchdog = self._loop.call_at(oldest + self._patience, self._watch)

    def end(self, error: Exception) -> None:
        """Give the connection up: whoever waits for a reply gets Lost."""
        if self._error is not None:
            return
        self._error = error
        self._watchdog.cancel()
        for task in self._tasks:
            task.cancel()
        reason = str(error) or repr(error)
        for replies, sent in (
            ([reply for _, reply in self._asked], True),
            ([reply for _, reply in self._unsent], False),
        ):
            for reply in replies:
                if not reply.done():
                    reply.set_exception(Lost(reason, sent))
                    # Some ask and do not wait.
                    reply.exception()
        self._asked.clear()
        self._unsent.clear()
        if self.on_end is not None:
            self.on_end(error)

    async def close(self) -> None:
        """End it, and wait until the socket is closed."""
        self.end(ConnectionAbortedError("the connection was closed"))
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with suppress(Exception):
            await self._wire.disconnect(nowait=True)


def _settle(reply: asyncio.Future[Reply], answer: Reply, error: Exception | None) -> None:
    if error is None:
        reply.set_result(answer)
    else:
        reply.set_exception(error)
