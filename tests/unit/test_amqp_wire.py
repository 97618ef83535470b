"""AMQP frames: what is written is read again, however it is cut, and what breaks the protocol is refused."""

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands, frame, header

from que.drivers.amqp.wire import (
    HEARTBEAT,
    Command,
    Event,
    Heartbeat,
    Message,
    Method,
    Properties,
    Reader,
    content_frames,
    method_frame,
    properties_bytes,
)
from que.errors import PacketError, ProtocolError

FRAME_MAX = 4096
SHORT = st.text(max_size=60)
HEADERS = st.dictionaries(
    st.text("abcdefgh-", min_size=1, max_size=20), st.one_of(st.booleans(), st.integers(-(2**31), 2**31 - 1), st.text())
)


def _properties(
    headers: dict[str, bool | int | str] | None, numbers: list[int | None], texts: list[str | None]
) -> Properties:
    kind, correlation_id, reply_to, message_id, type_, app_id = texts
    mode, priority, timestamp = numbers
    return Properties(
        content_type=kind,
        headers=None if headers is None else {**headers},
        delivery_mode=mode,
        priority=priority,
        correlation_id=correlation_id,
        reply_to=reply_to,
        message_id=message_id,
        timestamp=timestamp,
        type=type_,
        app_id=app_id,
    )


PROPERTIES = st.builds(
    _properties,
    st.none() | HEADERS,
    st.lists(st.none() | st.integers(0, 255), min_size=3, max_size=3),
    st.lists(st.none() | SHORT, min_size=6, max_size=6),
)
DELIVERY = ("1", 77, True, "", "que.résumé")


def delivered(body: bytes, properties: Properties, channel: int = 3) -> bytes:
    head = method_frame(channel, Method.BASIC_DELIVER, *DELIVERY)
    return head + content_frames(channel, properties_bytes(properties), body, FRAME_MAX)


def read(data: bytes, cuts: list[int] | None = None) -> list[Event]:
    reader = Reader(FRAME_MAX)
    edges = [0, *sorted({min(cut, len(data)) for cut in cuts or []}), len(data)]
    return [event for start, stop in itertools.pairwise(edges) for event in reader.feed(data[start:stop])]


@given(PROPERTIES, st.binary(max_size=3 * FRAME_MAX), st.lists(st.integers(0, 4 * FRAME_MAX), max_size=8))
def test_a_message_is_read_as_it_was_written_however_its_bytes_are_cut(
    properties: Properties, body: bytes, cuts: list[int]
) -> None:
    (message,) = read(delivered(body, properties), cuts)
    assert message == Message(3, Method.BASIC_DELIVER, DELIVERY, properties, body)


def test_a_message_is_read_from_single_bytes() -> None:
    data = delivered(b"x" * 5000, Properties(message_id="7"))
    (message,) = read(data, list(range(len(data))))
    assert isinstance(message, Message)
    assert message.body == b"x" * 5000


@given(st.binary(max_size=3 * FRAME_MAX))
def test_no_frame_of_a_body_is_longer_than_what_was_agreed(body: bytes) -> None:
    data = content_frames(1, properties_bytes(Properties()), body, FRAME_MAX)
    sizes: list[int] = []
    while data:
        size = int.from_bytes(data[3:7], "big")
        sizes.append(size + 8)
        data = data[size + 8 :]
    assert max(sizes) <= FRAME_MAX


@given(PROPERTIES)
def test_pamqp_reads_our_properties(properties: Properties) -> None:
    data = content_frames(1, properties_bytes(properties), b"", FRAME_MAX)
    _, _, read_header = frame.unmarshal(data)
    assert isinstance(read_header, header.ContentHeader)
    for name in ("correlation_id", "reply_to", "message_id", "delivery_mode", "app_id"):
        assert getattr(read_header.properties, name) == getattr(properties, name)
    assert (read_header.properties.headers or {}) == (properties.headers or {})


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (
            method_frame(
                1, Method.QUEUE_DECLARE, 0, "que.a", False, True, False, False, False, {"x-queue-type": "quorum"}
            ),
            commands.Queue.Declare(queue="que.a", durable=True, arguments={"x-queue-type": "quorum"}),
        ),
        (method_frame(1, Method.BASIC_NACK, 9, True, True), commands.Basic.Nack(9, True, True)),
        (method_frame(1, Method.BASIC_QOS, 0, 10, False), commands.Basic.Qos(0, 10, False)),
        (
            method_frame(1, Method.BASIC_CONSUME, 0, "q", "tag", False, True, False, False, {}),
            commands.Basic.Consume(queue="q", consumer_tag="tag", no_ack=True),
        ),
        (
            method_frame(1, Method.EXCHANGE_BIND, 0, "b", "a", "#", False, {}),
            commands.Exchange.Bind(destination="b", source="a", routing_key="#"),
        ),
        (
            method_frame(1, Method.CONNECTION_CLOSE, 200, "done", 0, 0),
            commands.Connection.Close(200, "done", 0, 0),
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_methods_are_written_as_pamqp_writes_them(ours: bytes, theirs: commands.Basic.Ack) -> None:
    assert ours == frame.marshal(theirs, 1)


def test_methods_without_content_and_heartbeats_come_between_messages() -> None:
    ack = method_frame(2, Method.BASIC_ACK, 5, True)
    message = delivered(b"", Properties())
    assert [type(event) for event in read(HEARTBEAT + ack + message + ack)] == [Heartbeat, Command, Message, Command]


def test_messages_of_two_channels_may_come_in_turns() -> None:
    one, two = (
        (
            method_frame(channel, Method.BASIC_DELIVER, *DELIVERY),
            content_frames(channel, properties_bytes(Properties()), b"%d" % channel, FRAME_MAX),
        )
        for channel in (1, 2)
    )
    bodies = [event.body for event in read(one[0] + two[0] + two[1] + one[1]) if isinstance(event, Message)]
    assert bodies == [b"2", b"1"]


@pytest.mark.parametrize(
    "data",
    [
        b"AMQP\x01\x01\x00\x09",
        b"\x01\x00\x01\x00\x00\x00\x04\x00\x3c\x00\x63\xce",
        method_frame(1, Method.BASIC_ACK, 1, False)[:-1] + b"\x00",
        b"\x05\x00\x01\x00\x00\x00\x00\xce",
        b"\x01\x00\x01\x7f\x00\x00\x00\xce\x00\x00\x00\x00",
        content_frames(1, properties_bytes(Properties()), b"", FRAME_MAX),
        b"\x03\x00\x01\x00\x00\x00\x01x\xce",
        method_frame(1, Method.BASIC_DELIVER, *DELIVERY) + method_frame(1, Method.BASIC_ACK, 1, False),
        method_frame(1, Method.BASIC_DELIVER, *DELIVERY)
        + content_frames(1, properties_bytes(Properties()), b"ab", FRAME_MAX).replace(b"\x02ab\xce", b"\x03abc\xce"),
        b"\x01\x00\x01\x00\x00\x00\x05\x00\x3c\x00\x50\x00\xce",
    ],
    ids=[
        "another version", "an unknown method", "no frame end", "an unknown type", "a huge frame", "a header alone",
        "a body alone", "no content", "too much content", "a method that is cut short",
    ],
)  # fmt: skip
def test_what_breaks_the_protocol_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        read(data + HEARTBEAT * 3)


@given(st.binary(max_size=200))
def test_garbage_is_refused_or_waited_for_and_nothing_else(data: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        read(data)


@given(st.binary(max_size=60), st.integers(0, 150))
def test_a_message_that_is_damaged_is_refused_or_read_and_nothing_else(damage: bytes, at: int) -> None:
    data = delivered(b"body", Properties(headers={"a": 1, "b": "c"}, message_id="7"))
    with contextlib.suppress(ProtocolError):
        read(data[:at] + damage + data[at + len(damage) :])


def test_a_name_that_is_too_long_is_refused_before_a_byte_leaves() -> None:
    with pytest.raises(PacketError, match="255"):
        method_frame(1, Method.BASIC_GET, 0, "é" * 128, False)
