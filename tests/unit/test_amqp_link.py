"""A connection that is kept: what a first failure means."""

import pytest

from que.drivers.amqp.connection import Connection
from que.drivers.amqp.link import Link
from que.drivers.amqp.wire import Method
from tests.unit.loops import in_loop
from tests.unit.test_amqp_connection import Peer, options, server


async def opened(connection: Connection) -> Connection:
    await connection.channel()
    return connection


@pytest.mark.parametrize(("code", "passes"), [(541, True), (403, False)], ids=["an internal error", "a refusal"])
@in_loop
async def test_an_internal_error_of_a_node_is_given_time_to_pass(code: int, passes: bool) -> None:
    refusals = [code, code]

    async def script(peer: Peer) -> None:
        await peer.open()
        await peer.until(Method.CHANNEL_OPEN)
        if refusals:
            peer.say(0, Method.CONNECTION_CLOSE, refusals.pop(), "no", 0, 0)
        else:
            peer.say(1, Method.CHANNEL_OPEN_OK, b"")

    async with server(script) as host:
        asked = options("backoff=0.01&timeout=20", host.port)
        link = Link(asked, None, "test", opened, lambda session, error: None, lambda: None)
        error = await link.first
        await link.close()
    assert (error is None) == passes
    assert len(refusals) == (0 if passes else 1)
