"""One channel: questions answered in order, messages to whoever consumes, and confirms for what was published."""

import asyncio
import enum
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, cast

from que.drivers.amqp.wire import Command, Message, Method, Value, content_frames, method_frame

_MOST_UNWRITTEN_BYTES = 256 * 1024


class Carrier(Protocol):
    """What a channel needs of its connection."""

    frame_max: int
    blocked: str

    @property
    def alive(self) -> bool: ...
    @property
    def writable(self) -> bool: ...
    @property
    def timeout(self) -> float: ...
    def write(self, data: bytes) -> None: ...
    def forget(self, channel: "Channel") -> None: ...
    async def until_writable(self) -> None: ...


class ChannelClosed(ConnectionError):
    """The server closed the channel and said why; the connection goes on."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{text} ({code})")
        self.code = code
        self.text = text


def _ignore(message: Message) -> None:
    pass


class Channel:
    """A channel of an open connection; `closed` is why it can no longer be used.

    Its server answers questions in the order in which they were asked, so a question that nobody waits for any more
    keeps its place in the line.
    """

    def __init__(self, number: int, carrier: Carrier) -> None:
        self.number = number
        self.closed: Exception | None = None
        self.on_message: Callable[[Message], None] = _ignore
        self.on_returned: Callable[[Message], None] = _ignore
        self.on_confirmed: Callable[[int, bool, bool], None] = lambda tag, multiple, ok: None
        self.on_cancelled: Callable[[str], None] = lambda consumer_tag: None
        self.on_closed: Callable[[Exception], None] = lambda error: None
        self.carrier = carrier
        self._questions: deque[asyncio.Future[Command | Message]] = deque()

    def send(self, method: Method, *args: Value) -> None:
        """Write a method that has no answer."""
        if self.closed is None:
            self.carrier.write(method_frame(self.number, method, *args))

    def ask(self, method: Method, *args: Value) -> asyncio.Future[Command | Message]:
        """Write a method, and return the future of its answer."""
        question: asyncio.Future[Command | Message] = asyncio.get_running_loop().create_future()
        if self.closed is not None:
            question.set_exception(self.closed)
            return question
        self._questions.append(question)
        self.carrier.write(method_frame(self.number, method, *args))
        return question

    async def call(self, method: Method, *args: Value) -> tuple[Value, ...]:
        """Return the arguments of the answer; raises ChannelClosed, another ConnectionError or TimeoutError."""
        return (await self.answer(self.ask(method, *args), method)).args

    async def answer(self, question: asyncio.Future[Command | Message], method: Method) -> Command | Message:
        """Wait for a question's answer, as long as the server may take."""
        try:
            async with asyncio.timeout(self.carrier.timeout):
                return await question
        except TimeoutError as error:
            raise TimeoutError(f"no answer to {method.name} within {self.carrier.timeout:g} s") from error

    def handle(self, event: Command | Message) -> None:
        """The server has said something on this channel."""
        method = event.method
        if isinstance(event, Message):
            if method is Method.BASIC_DELIVER:
                self.on_message(event)
            elif method is Method.BASIC_RETURN:
                self.on_returned(event)
            else:
                self._answered(event)
        elif method is Method.BASIC_ACK:
            self.on_confirmed(cast(int, event.args[0]), bool(event.args[1]), True)
        elif method is Method.BASIC_NACK:
            self.on_confirmed(cast(int, event.args[0]), bool(event.args[1]), False)
        elif method is Method.BASIC_CANCEL:
            self.on_cancelled(cast(str, event.args[0]))
        elif method is Method.CHANNEL_CLOSE:
            code, text = cast(tuple[int, str], event.args[:2])
            self.send(Method.CHANNEL_CLOSE_OK)
            self.carrier.forget(self)
            self.lost(ChannelClosed(code, text))
        elif method is Method.CHANNEL_FLOW:
            self.send(Method.CHANNEL_FLOW_OK, event.args[0])
        else:
            self._answered(event)

    def _answered(self, event: Command | Message) -> None:
        if self._questions:
            question = self._questions.popleft()
            if not question.done():
                question.set_result(event)
        if event.method is Method.CHANNEL_CLOSE_OK:
            self.carrier.forget(self)
            self.lost(ConnectionAbortedError("the channel was closed"))

    def close_soon(self) -> None:
        """Ask the server to close the channel, and do not wait; what it delivered and nobody settled goes back."""
        if self.closed is None:
            self.ask(Method.CHANNEL_CLOSE, 200, "done", 0, 0).add_done_callback(_retrieve)

    def lost(self, error: Exception) -> None:
        """The channel is gone, or its connection is."""
        if self.closed is not None:
            return
        self.closed = error
        questions, self._questions = self._questions, deque()
        for question in questions:
            if not question.done():
                question.set_exception(error)
                question.add_done_callback(_retrieve)
        self.on_closed(error)


def _retrieve(question: "asyncio.Future[Command | Message]") -> None:
    if not question.cancelled():
        question.exception()


class Outgoing(NamedTuple):
    """A message to be published: `head` is its publish method's arguments as encoded by publish_head()."""

    head: bytes
    properties: bytes
    body: bytes


def publish_head(channel: int, exchange: str, routing_key: str, *, mandatory: bool = True) -> bytes:
    """Return the method frame of a publication, to be kept for all that go the same way."""
    return method_frame(channel, Method.BASIC_PUBLISH, 0, exchange, routing_key, mandatory, False)


class Fate(enum.Enum):
    """What became of a publication."""

    SAFE = "safe"  # the server has it, on as many nodes as its queue asks for
    UNSENT = "unsent"  # no byte of it left
    UNROUTED = "unrouted"  # there is no such queue
    REFUSED = "refused"  # the server said no
    UNKNOWN = "unknown"  # it left, and the server has not said


class Outcome(NamedTuple):
    """A fate, and the reason where it is not SAFE."""

    fate: Fate
    why: str = ""


SAFE = Outcome(Fate.SAFE)


class _Batch:
    __slots__ = ("done", "left", "outcomes")

    def __init__(self, size: int, done: asyncio.Future[None]) -> None:
        self.outcomes: list[Outcome | None] = [None] * size
        self.left = size
        self.done = done


class Publisher:
    """A channel in confirm mode: publishes batches, and tells of each message whether the server has it.

    Batches leave one after the other, so that what was published first is in its queue first.
    """

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.lost: Callable[[Exception], None] = lambda error: None
        channel.on_confirmed = self._confirmed
        channel.on_returned = self._returned
        channel.on_closed = self._closed
        self._loop = asyncio.get_running_loop()
        self._writing = asyncio.Lock()
        self._tag = 0
        self._pending: dict[int, tuple[_Batch, int, str]] = {}
        # The tags of what is pending, and of some that was confirmed out of turn.
        self._order: deque[int] = deque()
        # The server returns a message before it confirms it, and names it by nothing but its content.
        self._returned_ids: dict[str, str] = {}
        self._heard_at = 0.0

    @classmethod
    async def open(cls, channel: Channel) -> "Publisher":
        """Return the publisher of a fresh channel."""
        publisher = cls(channel)
        await channel.call(Method.CONFIRM_SELECT, False)
        return publisher

    async def publish(self, messages: Sequence[Outgoing], ids: Sequence[str]) -> list[Outcome]:
        """Publish, wait for the confirms, and return an outcome for each. `ids`: the message ids.

        What cannot leave within the timeout, because the server blocks us, was not sent; what leaves is waited for as
        long as the server keeps confirming. Never raises, but for a cancellation, which leaves the channel in step.
        """
        batch = _Batch(len(messages), self._loop.create_future())
        patience = self.channel.carrier.timeout
        begun = self._loop.time()
        async with self._writing:
            await self._write(messages, ids, batch, begun + patience)
        self._heard_at = max(self._heard_at, begun)
        while batch.left and not batch.done.done():
            wait_seconds = max(self._heard_at, begun) + patience - self._loop.time()
            if wait_seconds <= 0:
                break
            await asyncio.wait([batch.done], timeout=wait_seconds)
        why = self._why_not()
        return [Outcome(Fate.UNSENT, why) if outcome is None else outcome for outcome in batch.outcomes]

    def post(self, messages: Sequence[Outgoing]) -> None:
        """Publish without waiting for anything; what cannot leave now is dropped."""
        carrier, number = self.channel.carrier, self.channel.number
        if self.channel.closed is not None or not carrier.writable:
            return
        self._tag += len(messages)
        for head, properties, body in messages:
            carrier.write(head + content_frames(number, properties, body, carrier.frame_max))

    async def _write(self, messages: Sequence[Outgoing], ids: Sequence[str], batch: _Batch, deadline: float) -> None:
        """Write what can be written; the wait for room ends at `deadline`, or as late after the last message left."""
        carrier, number, frame_max = self.channel.carrier, self.channel.number, self.channel.carrier.frame_max
        parts: list[bytes] = []
        size = 0
        for index, (head, properties, body) in enumerate(messages):
            if not (parts or carrier.writable) and not await self._room(deadline):
                break
            if self.channel.closed is not None:
                break
            frames = content_frames(number, properties, body, frame_max)
            parts += (head, frames)
            size += len(head) + len(frames)
            self._tag += 1
            self._pending[self._tag] = (batch, index, ids[index])
            self._order.append(self._tag)
            batch.outcomes[index] = _UNCONFIRMED
            if size > _MOST_UNWRITTEN_BYTES:
                carrier.write(b"".join(parts))
                parts, size = [], 0
                deadline = self._loop.time() + carrier.timeout
        if parts:
            carrier.write(b"".join(parts))
        # Those that were not written have no confirm to wait for.
        batch.left -= batch.outcomes.count(None)

    async def _room(self, deadline: float) -> bool:
        try:
            async with asyncio.timeout_at(deadline):
                await self.channel.carrier.until_writable()
        except TimeoutError:
            return False
        return True

    def _why_not(self) -> str:
        carrier = self.channel.carrier
        if self.channel.closed is not None:
            return str(self.channel.closed)
        if carrier.blocked:
            return f"the server takes no messages at present: {carrier.blocked}"
        return f"it could not leave within {carrier.timeout:g} s"

    def _returned(self, message: Message) -> None:
        name = message.properties.message_id or message.properties.correlation_id or ""
        self._returned_ids[name] = cast(str, message.args[1])

    def _confirmed(self, tag: int, multiple: bool, ok: bool) -> None:
        self._heard_at = self._loop.time()
        order, pending = self._order, self._pending
        if multiple:
            while order and order[0] <= tag:
                self._end(order.popleft(), ok)
            return
        self._end(tag, ok)
        while order and order[0] not in pending:
            order.popleft()

    def _end(self, tag: int, ok: bool) -> None:
        found = self._pending.pop(tag, None)
        if found is None:
            return
        batch, index, id = found
        if self._returned_ids and (why := self._returned_ids.pop(id, None)) is not None:
            batch.outcomes[index] = Outcome(Fate.UNROUTED, f"the server found no queue for it: {why}")
        else:
            batch.outcomes[index] = SAFE if ok else _REFUSED
        batch.left -= 1
        if not batch.left and not batch.done.done():
            batch.done.set_result(None)

    def _closed(self, error: Exception) -> None:
        pending, self._pending = self._pending, {}
        self._order.clear()
        unknown = Outcome(Fate.UNKNOWN, str(error))
        for batch, index, _ in pending.values():
            batch.outcomes[index] = unknown
            if not batch.done.done():
                batch.done.set_result(None)
        self.lost(error)


_UNCONFIRMED = Outcome(Fate.UNKNOWN, "the server did not confirm it in time")
_REFUSED = Outcome(Fate.REFUSED, "the server refused it (basic.nack): its queue is full, or has lost its quorum")
