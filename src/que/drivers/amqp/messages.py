"""How jobs, their copies, dead letters and answers look as messages. A job's body is its params and nothing else.

    message_id, correlation_id   the submitter's id
    reply_to                     where somebody waits for the result; left out for a background job
    app_id                       "que": answers may come as one message for many jobs
    x-que-attempts               runs before this message was made; the server counts those after it
    x-que-expires                Unix milliseconds after which the first run must not begin
    x-que-run-timeout            milliseconds for one run
    x-que-failure, x-que-buried  of a dead letter: the failure as JSON, Unix milliseconds

An answer's type is one of KINDS, or none for a result (of a worker in another language). An answer of type "que" is for
many jobs: MessagePack, an array of (id, kind, body).
"""

import time
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from pamqp.common import FieldTable

from que.drivers.amqp.channel import Channel
from que.drivers.amqp.wire import Message, Properties, properties_bytes, short_string
from que.model import Delivery, Envelope, Failed

REPLY_TO = "amq.rabbitmq.reply-to"
APP = "que"
ATTEMPTS, EXPIRES, RUN_TIMEOUT = "x-que-attempts", "x-que-expires", "x-que-run-timeout"
FAILURE, BURIED = "x-que-failure", "x-que-buried"
# CC and BCC would have a copy go where the first one went too.
_LEFT_OUT = frozenset({ATTEMPTS, EXPIRES, FAILURE, BURIED, "CC", "BCC"})
_OF_THE_SERVER = ("x-death", "x-delivery-count", "x-acquired-count", "x-first-death-", "x-last-death-")
_NOT_GIVEN = ("x-que-", *_OF_THE_SERVER)
_PERSISTENT = 2


class Letter(NamedTuple):
    """News for a submitter. `kind`: completed, failed, expired, taken, progress, chunk or warned."""

    id: str
    kind: str
    body: bytes


KINDS = frozenset({"completed", "failed", "expired", "taken", "progress", "chunk", "warned"})
_encode_letters = msgspec.msgpack.Encoder().encode
_decode_letters = msgspec.msgpack.Decoder(list[Letter]).decode


class Lease(NamedTuple):
    """What holds a delivery: the channel it came on and its tag there. `properties`: of its message."""

    channel: Channel
    tag: int
    properties: Properties


def job_properties(envelope: Envelope, now: float) -> bytes:
    """Return the properties of a job's message."""
    reply_to = None if envelope.background else REPLY_TO
    if envelope.expires is None and envelope.run_timeout is None and envelope.headers is None:
        # Nearly every job: only the id is its own.
        start, middle, end = _PLAIN[reply_to]
        id = short_string(envelope.id)
        return b"".join((start, id, middle, id, end))
    headers: FieldTable = dict(envelope.headers or {})
    if envelope.expires is not None:
        headers[EXPIRES] = int(1000 * expires_at(envelope, now))
    if envelope.run_timeout is not None:
        headers[RUN_TIMEOUT] = max(1, int(1000 * envelope.run_timeout))
    return properties_bytes(_job_properties(envelope.id, reply_to, headers))


def _job_properties(id: str, reply_to: str | None, headers: FieldTable | None) -> Properties:
    return Properties(
        headers=headers,
        delivery_mode=_PERSISTENT,
        correlation_id=id,
        reply_to=reply_to,
        message_id=id,
        app_id=APP,
    )


def _around_ids(reply_to: str | None) -> tuple[bytes, bytes, bytes]:
    """Return what stands before, between and behind the two ids in a plain job's properties."""
    id = "<id>"
    start, middle, end = properties_bytes(_job_properties(id, reply_to, None)).split(short_string(id))
    return start, middle, end


_PLAIN = {reply_to: _around_ids(reply_to) for reply_to in (None, REPLY_TO)}


def expires_at(envelope: Envelope, now: float) -> float:
    """Return the Unix time after which nobody may begin the job; only for one that expires."""
    assert envelope.expires is not None
    return max(now, envelope.due or 0.0) + envelope.expires


def delivery_of(message: Message, function: str, channel: Channel) -> Delivery:
    """Return what a worker is handed; the attempt counts the runs that the server and we know of."""
    _, tag, redelivered, _, _ = message.args
    properties = message.properties
    assert isinstance(tag, int)
    attempt = 1
    run_timeout = given = None
    headers = properties.headers
    if headers:
        attempt += _number(headers.get(ATTEMPTS))
        # A classic queue only says that there was a run before.
        attempt += _number(headers["x-delivery-count"]) if "x-delivery-count" in headers else bool(redelivered)
        if milliseconds := _number(headers.get(RUN_TIMEOUT)):
            run_timeout = milliseconds / 1000
        given = _given(headers)
    elif redelivered:
        attempt = 2
    id = properties.message_id or properties.correlation_id or f"{function}#{tag}"
    return Delivery(function, message.body, id, attempt, run_timeout, Lease(channel, tag, properties), given)


def _given(headers: FieldTable) -> dict[str, str] | None:
    """Return the headers that are the submitter's own, by names in lower case; what is no text is left out."""
    texts = {name.lower(): value for name, value in headers.items() if isinstance(value, str)}
    return {name: value for name, value in texts.items() if not name.startswith(_NOT_GIVEN)} or None


def has_expired(delivery: Delivery) -> bool:
    """Whether a job that nobody has run yet came too late."""
    headers = lease_of(delivery).properties.headers
    deadline = _number(headers.get(EXPIRES)) if headers and delivery.attempt == 1 else 0
    return 0 < deadline < time.time() * 1000


def lease_of(delivery: Delivery) -> Lease:
    """Return what this driver wrote into a delivery."""
    assert isinstance(delivery.lease, Lease), "a delivery of another driver"
    return delivery.lease


def copy_properties(properties: Properties, attempts: int) -> bytes:
    """Return the properties of a job that is published again after so many runs."""
    return properties_bytes(_replaced(properties, {ATTEMPTS: attempts} if attempts else {}))


def first_again(properties: Properties, attempts: int) -> bytes:
    """Return the properties of a job that is given back: one that has not run yet may still expire."""
    deadline = (properties.headers or {}).get(EXPIRES)
    if attempts or deadline is None:
        return copy_properties(properties, attempts)
    return properties_bytes(_replaced(properties, {EXPIRES: deadline}))


def letter_properties(properties: Properties, attempts: int, failure: Failed) -> bytes:
    """Return the properties of a dead letter."""
    facts: FieldTable = {
        ATTEMPTS: attempts,
        FAILURE: msgspec.json.encode(failure).decode(),
        BURIED: int(time.time() * 1000),
    }
    return properties_bytes(_replaced(properties, facts))


def _replaced(properties: Properties, facts: FieldTable) -> Properties:
    """Return the properties with the headers that others wrote, and `facts` in place of ours and the server's.

    Without the user id, which only its own connection may claim, and the expiry of whoever published it.
    """
    kept = {
        name: value
        for name, value in (properties.headers or {}).items()
        if name not in _LEFT_OUT and not name.startswith(_OF_THE_SERVER)
    }
    headers: FieldTable = {**kept, **facts}
    return msgspec.structs.replace(
        properties, headers=headers or None, delivery_mode=_PERSISTENT, user_id=None, expiration=None
    )


def _number(value: object) -> int:
    return max(0, value) if isinstance(value, int) else 0


# --- answers ----------------------------------------------------------------------------------------------------------

_MANY_PROPERTIES = properties_bytes(Properties(type=APP))


def answer_to_que(letters: Sequence[Letter]) -> tuple[bytes, bytes]:
    """Return the properties and the body of one answer for several jobs of one submitter."""
    return _MANY_PROPERTIES, _encode_letters(letters)


def answer_to_others(letter: Letter, to: Properties) -> tuple[bytes, bytes]:
    """Return the properties and the body of an answer to a program that is not que."""
    properties = Properties(
        content_type=to.content_type, correlation_id=to.correlation_id or to.message_id, type=letter.kind
    )
    return properties_bytes(properties), letter.body


def letters_of(message: Message) -> list[Letter]:
    """Return what an answer says; raises msgspec.DecodeError for one that nobody of ours has written."""
    properties = message.properties
    if properties.type == APP:
        return _decode_letters(message.body)
    kind = properties.type if properties.type in KINDS else "completed"
    return [Letter(properties.correlation_id or properties.message_id or "", kind or "completed", message.body)]
