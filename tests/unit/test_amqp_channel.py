"""Confirms: whatever their order, each message has its own outcome, and the first ones leave first."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from que.drivers.amqp.channel import Channel, ChannelClosed, Fate, Outcome, Outgoing, Publisher
from que.drivers.amqp.wire import Command, Message, Method, Properties, Reader, method_frame
from tests.unit.loops import in_loop, ticks


class Carrier:
    """A connection that writes down what it is given."""

    frame_max = 4096

    def __init__(self, timeout: float = 20.0) -> None:
        self.blocked = ""
        self.alive = True
        self.timeout = timeout
        self.written = bytearray()
        self.forgotten: list[Channel] = []
        self._free = asyncio.Event()
        self._free.set()

    @property
    def writable(self) -> bool:
        return self._free.is_set()

    def write(self, data: bytes) -> None:
        self.written += data

    def forget(self, channel: Channel) -> None:
        self.forgotten.append(channel)

    async def until_writable(self) -> None:
        await self._free.wait()

    def block(self) -> None:
        self._free.clear()
        self.blocked = "low on memory"

    def unblock(self) -> None:
        self._free.set()
        self.blocked = ""

    def bodies(self) -> list[bytes]:
        return [event.body for event in Reader(4096).feed(bytes(self.written)) if isinstance(event, Message)]


HEAD = method_frame(1, Method.BASIC_PUBLISH, 0, "", "que.a", True, False)


def messages(*bodies: str) -> tuple[list[Outgoing], list[str]]:
    return [Outgoing(HEAD, b"\x00\x00", body.encode()) for body in bodies], list(bodies)


def publisher(timeout: float = 20.0) -> tuple[Publisher, Channel, Carrier]:
    carrier = Carrier(timeout)
    channel = Channel(1, carrier)
    return Publisher(channel), channel, carrier


def confirm(channel: Channel, tag: int, multiple: bool = False, ok: bool = True) -> None:
    method = Method.BASIC_ACK if ok else Method.BASIC_NACK
    channel.handle(Command(1, method, (tag, multiple) if ok else (tag, multiple, False)))


def fates(outcomes: list[Outcome]) -> list[Fate]:
    return [outcome.fate for outcome in outcomes]


@given(st.data())
def test_confirms_in_any_order_give_each_message_its_own_outcome(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=5))
    total = sum(sizes)
    refused = data.draw(st.sets(st.integers(1, total)))
    singles = data.draw(st.permutations(range(1, total + 1)))
    upto = data.draw(st.integers(0, total))

    async def main() -> None:
        out, channel, _ = publisher()
        batches = [asyncio.ensure_future(out.publish(*messages(*["m"] * size))) for size in sizes]
        await ticks(3)
        for tag in singles:
            if tag > upto or tag in refused:
                confirm(channel, tag, ok=tag not in refused)
        if upto:
            confirm(channel, upto, multiple=True)
        expected = [Fate.REFUSED if tag in refused else Fate.SAFE for tag in range(1, total + 1)]
        assert [fate for batch in batches for fate in fates(await batch)] == expected

    asyncio.run(main())


@in_loop
async def test_a_message_that_was_returned_has_no_route_though_it_is_confirmed() -> None:
    out, channel, _ = publisher()
    publishing = asyncio.ensure_future(out.publish(*messages("a", "b")))
    await ticks()
    args = (312, "NO_ROUTE", "", "que.a")
    channel.handle(Message(1, Method.BASIC_RETURN, args, Properties(message_id="b"), b"b"))
    confirm(channel, 2, multiple=True)
    assert fates(await publishing) == [Fate.SAFE, Fate.UNROUTED]


@in_loop
async def test_what_is_not_confirmed_when_the_channel_closes_is_unknown() -> None:
    out, channel, carrier = publisher()
    publishing = asyncio.ensure_future(out.publish(*messages("a", "b")))
    await ticks()
    confirm(channel, 1)
    channel.handle(Command(1, Method.CHANNEL_CLOSE, (406, "PRECONDITION_FAILED", 0, 0)))
    assert fates(await publishing) == [Fate.SAFE, Fate.UNKNOWN]
    assert carrier.forgotten == [channel]
    assert isinstance(channel.closed, ChannelClosed)
    assert fates(await out.publish(*messages("c"))) == [Fate.UNSENT]


@in_loop
async def test_nothing_leaves_while_the_server_blocks_and_then_all_does_in_order() -> None:
    out, channel, carrier = publisher()
    carrier.block()
    publishing = [asyncio.ensure_future(out.publish(*messages(body))) for body in "abc"]
    await ticks()
    assert carrier.bodies() == []
    carrier.unblock()
    await ticks(20)
    confirm(channel, 3, multiple=True)
    assert [fates(await batch) for batch in publishing] == [[Fate.SAFE]] * 3
    assert carrier.bodies() == [b"a", b"b", b"c"]


@in_loop
async def test_what_could_not_leave_in_time_was_not_sent_and_says_why() -> None:
    out, _, carrier = publisher(timeout=0.02)
    carrier.block()
    (outcome,) = await out.publish(*messages("a"))
    assert outcome.fate is Fate.UNSENT
    assert "low on memory" in outcome.why
    carrier.unblock()
    assert carrier.bodies() == []


@in_loop
async def test_a_message_that_nobody_confirms_in_time_is_unknown_and_the_next_ones_are_counted_right() -> None:
    out, channel, _ = publisher(timeout=0.02)
    assert fates(await out.publish(*messages("a"))) == [Fate.UNKNOWN]
    publishing = asyncio.ensure_future(out.publish(*messages("b")))
    await ticks()
    confirm(channel, 1)
    confirm(channel, 2)
    assert fates(await publishing) == [Fate.SAFE]


@in_loop
async def test_a_publication_that_was_cancelled_leaves_the_next_ones_in_step() -> None:
    out, channel, _ = publisher()
    first = asyncio.ensure_future(out.publish(*messages("a", "b")))
    await ticks()
    first.cancel()
    second = asyncio.ensure_future(out.publish(*messages("c")))
    await ticks()
    confirm(channel, 1, multiple=True, ok=False)
    confirm(channel, 3, multiple=True)
    assert fates(await second) == [Fate.SAFE]


@in_loop
async def test_what_is_posted_is_counted_though_nobody_waits_for_it() -> None:
    out, channel, carrier = publisher()
    out.post(messages("a", "b")[0])
    publishing = asyncio.ensure_future(out.publish(*messages("c")))
    await ticks()
    assert carrier.bodies() == [b"a", b"b", b"c"]
    confirm(channel, 2, multiple=True)
    await ticks()
    assert not publishing.done()
    confirm(channel, 3)
    assert fates(await publishing) == [Fate.SAFE]


@in_loop
async def test_an_answer_that_nobody_waits_for_any_more_does_not_go_to_the_next_question() -> None:
    carrier = Carrier()
    channel = Channel(1, carrier)
    first = asyncio.ensure_future(channel.call(Method.BASIC_CANCEL, "1", False))
    await ticks()
    first.cancel()
    second = asyncio.ensure_future(channel.call(Method.QUEUE_DELETE, 0, "que.a", False, False, False))
    await ticks()
    channel.handle(Command(1, Method.BASIC_CANCEL_OK, ("1",)))
    channel.handle(Command(1, Method.QUEUE_DELETE_OK, (7,)))
    assert await second == (7,)


@in_loop
async def test_a_batch_that_has_to_wait_for_room_is_not_overtaken_by_the_next_one() -> None:
    out, channel, carrier = publisher()
    big = "x" * 300_000

    written = carrier.write

    def write(data: bytes) -> None:
        written(data)
        carrier.block()

    carrier.write = write  # type: ignore[method-assign]  # the server blocks after each write
    first = asyncio.ensure_future(out.publish(*messages("1" + big, "2" + big, "3" + big)))
    await ticks()
    second = asyncio.ensure_future(out.publish(*messages("4")))
    await ticks()
    for _ in range(4):
        carrier.unblock()
        await ticks()
    confirm(channel, 4, multiple=True)
    assert fates(await first) == [Fate.SAFE] * 3
    assert fates(await second) == [Fate.SAFE]
    assert [body[:1] for body in carrier.bodies()] == [b"1", b"2", b"3", b"4"]
