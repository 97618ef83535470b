"""Reading, keeping and deleting single messages of the streams."""

import asyncio
import time
from collections.abc import Mapping, Sequence

import msgspec

from que.drivers.nats import names
from que.drivers.nats.link import Ack, Link, Outgoing, Silence
from que.drivers.nats.streams import Streams
from que.model import Delivery, Failed

_NO_MESSAGE = frozenset({10037, 10057, 10059})


class Stored(msgspec.Struct):
    """A message as a stream keeps it."""

    subject: str
    seq: int
    time: str
    data: bytes = b""
    hdrs: bytes = b""

    def headers(self) -> dict[str, str]:
        """Return its headers."""
        lines = self.hdrs.decode("utf-8", "replace").split("\r\n")[1:]
        pairs = (line.partition(":") for line in lines if line)
        return {name.strip(): value.strip() for name, _, value in pairs}


class _Found(msgspec.Struct):
    message: Stored | None = None


class End(msgspec.Struct):
    """How a job ended, as it is kept. `kind`: completed, failed, expired or cancelled."""

    kind: str
    body: bytes


# A dead letter must be stored, and a replay must run, whatever the key of the job, its delay or its patience were.
_NOT_BURIED = frozenset({names.UNIQUE, names.DUE, names.EXPIRES})
_read = msgspec.json.Decoder(_Found).decode


class Store:
    """The messages of one installation, by stream and sequence. Every method raises Silence."""

    def __init__(self, link: Link, streams: Streams, prefix: str) -> None:
        self._link = link
        self._streams = streams
        self._prefix = prefix

    async def get(self, stream: str, question: Mapping[str, object]) -> Stored | None:
        """Return the message that `question` asks for ({"seq": …} or {"last_by_subj": …}), or None."""
        answer, error = await self._link.api(f"STREAM.MSG.GET.{stream}", question)
        if error is not None:
            if error.code == 404 or error.err_code in _NO_MESSAGE:
                return None
            raise Silence(error.description, sent=True)
        return _read(answer).message

    async def job(self, receipt: int) -> Stored | None:
        """Return the job of that receipt, if it has not ended; one that was replayed has moved."""
        found = await self.get(self._streams.jobs, {"seq": receipt})
        if found is None:
            moved = await self.get(self._streams.notes, {"last_by_subj": f"{self._prefix}.note.moved-{receipt}"})
            if moved is not None and moved.data.isdigit():
                found = await self.get(self._streams.jobs, {"seq": int(moved.data)})
        return found

    def moved(self, receipt: int, number: int) -> Outgoing:
        """Return the message that makes job() find the job of `receipt` at `number`."""
        return f"{self._prefix}.note.moved-{receipt}", b"%d" % number, None

    async def delete(self, stream: str, number: int) -> bool:
        """Return whether there was such a message, which is gone now."""
        answer, error = await self._link.api(f"STREAM.MSG.DELETE.{stream}", {"seq": number})
        return error is None and bool(answer)

    async def put(self, messages: Sequence[Outgoing]) -> list[Ack | Silence]:
        """Return what became of each message, in order."""
        acks: dict[int, Ack] = {}
        left = await self._link.store(messages, acks.__setitem__)
        return [acks[place] if place in acks else left[place] for place in range(len(messages))]

    async def end_message(self, receipt: int, end: End, seconds: float) -> Outgoing:
        """Return the message that keeps the end of a job for `seconds`; its stream exists then. Raises Refused too."""
        age = names.result_age(seconds)
        await self._streams.open_results(age)
        headers = {names.KIND: end.kind, names.EXPIRES: repr(time.time() + seconds)}
        return f"{self._prefix}.result.{age}.{receipt}", end.body, headers

    async def end(self, receipt: int) -> End | None:
        """Return how a job ended, if that is kept still."""
        found = await asyncio.gather(
            *[
                self.get(self._streams.results(age), {"last_by_subj": f"{self._prefix}.result.{age}.{receipt}"})
                for age in names.RESULT_AGES
            ]
        )
        for message in found:
            if message is not None:
                headers = message.headers()
                if (names.number(headers, names.EXPIRES) or 0.0) > time.time():
                    return End(headers.get(names.KIND, "completed"), message.data)
        return None

    def letter(
        self, delivery: Delivery, receipt: int, lane: str, headers: Mapping[str, str], failure: Failed
    ) -> Outgoing:
        """Return the message that keeps a job that failed for good; its headers are the job's, and how it failed."""
        short = Failed(failure.kind, failure.type, failure.message[: names.MOST_FAILURE_CHARACTERS])
        facts = {name: value for name, value in headers.items() if name not in _NOT_BURIED}
        facts |= {
            names.FAILURE: msgspec.json.encode(short).decode(),
            names.ATTEMPTS: str(delivery.attempt or 0),
            names.BURIED_AT: repr(time.time()),
            names.LANE: lane,
        }
        return f"{self._prefix}.dead.{names.token(delivery.function)}.{receipt}", delivery.payload, facts

    async def released(self, number: int) -> int:
        """Return how often a job was given back, which does not count as a run."""
        note = await self.get(self._streams.notes, {"last_by_subj": f"{self._prefix}.note.{number}"})
        return int(note.data) if note is not None and note.data.isdigit() else 0

    def note(self, number: int, released: int) -> Outgoing:
        """Return the message that makes released() return that."""
        return f"{self._prefix}.note.{number}", b"%d" % released, None

    def forgotten_note(self, number: int) -> tuple[str, bytes]:
        """Return the message after which nothing is left of a job's note."""
        question = msgspec.json.encode({"filter": f"{self._prefix}.note.{number}"})
        return f"$JS.API.STREAM.PURGE.{self._streams.notes}", question
