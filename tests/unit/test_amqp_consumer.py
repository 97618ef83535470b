"""A worker's acknowledgements: one word for as many jobs as order allows, and never for one more."""

from hypothesis import given
from hypothesis import strategies as st

from que.address import Address
from que.drivers.amqp.channel import Channel
from que.drivers.amqp.connection import Connection
from que.drivers.amqp.consumer import Claim
from que.drivers.amqp.options import Options
from que.drivers.amqp.topology import Topology
from que.drivers.amqp.wire import Command, Method, Reader
from que.model import Delivery
from tests.unit.loops import in_loop
from tests.unit.test_amqp_channel import Carrier


def acknowledged(held: list[int], done: set[int]) -> list[tuple[int, bool]]:
    """Return the acknowledgements, each with whether it speaks for all before it, when of `held` these are done."""
    said: list[tuple[int, bool]] = []

    @in_loop
    async def scenario() -> None:
        carrier = Carrier()
        options = Options.of(Address.parse("amqp://"))
        claim = Claim(Channel(1, carrier), Topology(Connection(options), options))
        for tag in held:
            claim.held[tag] = Delivery("f", b"", str(tag))
        claim.acknowledge(set(done))
        assert set(claim.held) == set(held) - done
        for event in Reader(4096).feed(bytes(carrier.written)):
            assert isinstance(event, Command)
            assert event.method is Method.BASIC_ACK
            spoken_of, multiple = event.args
            assert isinstance(spoken_of, int)
            said.append((spoken_of, bool(multiple)))

    scenario()
    return said


@given(st.lists(st.integers(1, 60), unique=True, max_size=20).map(sorted).flatmap(
    lambda held: st.tuples(st.just(held), st.sets(st.sampled_from(held)) if held else st.just(set[int]()))
))  # fmt: skip
def test_the_server_hears_of_exactly_those_that_are_done(case: tuple[list[int], set[int]]) -> None:
    held, done = case
    left = set(held)
    for tag, multiple in acknowledged(held, done):
        told = {each for each in left if each <= tag} if multiple else {tag}
        assert told <= done
        left -= told
    assert left == set(held) - done


def test_jobs_that_are_done_in_their_order_are_acknowledged_by_one_word() -> None:
    assert acknowledged([3, 4, 7, 9], {3, 4, 7}) == [(7, True)]
    assert acknowledged([3, 4, 7, 9], {3, 9}) == [(3, True), (9, False)]
