"""Dead letters: read by taking them from their queue and giving them back, on a channel of that one reading."""

import contextlib
import hashlib
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import cast
from urllib.parse import quote, unquote

import msgspec
from pamqp.common import FieldTable

from que.drivers.amqp.channel import Channel, Fate, Outgoing
from que.drivers.amqp.messages import ATTEMPTS, BURIED, FAILURE, copy_properties
from que.drivers.amqp.submitter import Outbox
from que.drivers.amqp.wire import Message, Method
from que.errors import ConnectError
from que.model import DeadLetter, Failed

_decode_failure = msgspec.json.Decoder(Failed).decode
_AT_ONCE = 100
_MOST_SORTED = 1000
# What the server itself says of why it has buried a message.
_REASONS = {
    "rejected": Failed("rejected", "", "a worker rejected it"),
    "delivery_limit": Failed("crashed", "WorkerLost", "its worker was lost in each run"),
}
_Act = Callable[[str, Sequence[Message]], Coroutine[object, object, list[bool]]]


class Graveyard:
    """The dead letters, as one connection sees them: while somebody reads them, others see fewer."""

    def __init__(self, outbox: Outbox, address: str) -> None:
        self._outbox = outbox
        self._address = address

    async def letters(self, function: str, limit: int) -> list[DeadLetter]:
        """Return the oldest `limit`, and leave them where they are."""
        async with self._reading(function) as channel:
            # What was given back before stands behind the rest: RabbitMQ has no order but that of its queue.
            messages = await self._take(channel, function, max(limit, _MOST_SORTED))
        letters = [_letter(function, message) for message in messages]
        letters.sort(key=lambda letter: letter.buried_at)
        return letters[:limit]

    async def drop(self, receipts: Collection[str]) -> int:
        """Forget these; return how many there were."""
        return await self._each(receipts, None)

    async def replay(self, receipts: Collection[str]) -> int:
        """Publish these as jobs that have never run; return how many there were."""
        return await self._each(receipts, self._publish)

    async def _each(self, receipts: Collection[str], act: "_Act | None") -> int:
        wanted: dict[str, set[str]] = {}
        for receipt in receipts:
            name, at, function = receipt.partition("@")
            if at:
                wanted.setdefault(function, set()).add(unquote(name))
        return sum([await self._find(function, names, act) for function, names in wanted.items()])

    async def _find(
        self,
        function: str,
        names: set[str],
        act: "_Act | None",
    ) -> int:
        """Go through the whole queue until all are found: AMQP has no other way to a message."""
        count = 0
        async with self._reading(function) as channel:
            while names:
                messages = await self._take(channel, function, _MOST_SORTED)
                if not messages:
                    break
                found = sorted((each for each in messages if _name(each) in names), key=_buried_at)
                names.difference_update(map(_name, found))
                done = [True] * len(found) if act is None else await act(function, found)
                for message, is_done in zip(found, done, strict=True):
                    if is_done:
                        count += 1
                        channel.send(Method.BASIC_ACK, cast(int, message.args[0]), False)
        return count

    async def _publish(self, function: str, messages: Sequence[Message]) -> list[bool]:
        outbox = self._outbox
        await outbox.mend()
        head = await outbox.way(function, 0, outbox.rest)
        copies = [Outgoing(head, copy_properties(message.properties, 0), message.body) for message in messages]
        ids = [message.properties.message_id or "" for message in messages]
        return [outcome.fate is Fate.SAFE for outcome in await outbox.rest.publish(copies, ids)]

    @asynccontextmanager
    async def _reading(self, function: str) -> AsyncGenerator[Channel, None]:
        """A channel of its own: what was taken on it and not acknowledged goes back, in its order, when it closes."""
        try:
            await self._outbox.topology.make([function])
            channel = await self._outbox.connection.channel()
            try:
                yield channel
            finally:
                if channel.closed is None:
                    await channel.call(Method.CHANNEL_CLOSE, 200, "done", 0, 0)
        except (OSError, TimeoutError) as error:
            raise ConnectError(self._address, f"the dead letters of {function!r} cannot be read: {error}") from error

    async def _take(self, channel: Channel, function: str, limit: int) -> list[Message]:
        """Take at most `limit` messages, all asked for at once."""
        queue = self._outbox.topology.names.dead(function)
        messages: list[Message] = []
        while limit > 0:
            count = min(limit, _AT_ONCE)
            limit -= count
            questions = [channel.ask(Method.BASIC_GET, 0, queue, False) for _ in range(count)]
            answers = [await channel.answer(question, Method.BASIC_GET) for question in questions]
            messages += [answer for answer in answers if isinstance(answer, Message)]
            if len(messages) < count:
                break
        return messages


def _letter(function: str, message: Message) -> DeadLetter:
    attempts = _headers(message).get(ATTEMPTS)
    return DeadLetter(
        f"{quote(_name(message), safe='')}@{function}",
        function,
        message.body,
        _failure(message),
        attempts if isinstance(attempts, int) else None,
        _buried_at(message),
    )


def _headers(message: Message) -> FieldTable:
    return message.properties.headers or {}


def _failure(message: Message) -> Failed:
    """Return what a worker of ours has written, or what the server says."""
    said = _headers(message).get(FAILURE)
    if isinstance(said, str):
        with contextlib.suppress(msgspec.DecodeError):
            return _decode_failure(said)
    reason = str(_death(message).get("reason", "unknown"))
    return _REASONS.get(reason, Failed("rejected", "", f"the server buried it: {reason}"))


def _buried_at(message: Message) -> float:
    milliseconds, moment = _headers(message).get(BURIED), _death(message).get("time")
    if isinstance(milliseconds, int):
        return milliseconds / 1000
    return moment.timestamp() if isinstance(moment, datetime) else 0.0


def _death(message: Message) -> FieldTable:
    """Return what the server has noted when it buried the message itself."""
    deaths = _headers(message).get("x-death")
    first = deaths[0] if isinstance(deaths, list) and deaths else None
    return first if isinstance(first, dict) else {}


def _name(message: Message) -> str:
    """Return the message's id; for one of another program that gave it none, a hash of what it is."""
    properties = message.properties
    return properties.message_id or properties.correlation_id or hashlib.sha256(message.body).hexdigest()
