"""What happens when the server, a connection or a part of what is kept there goes away."""

import asyncio
import time
from pathlib import Path

import pytest

import que
from que.drivers.nats import NatsDriver
from que.drivers.nats.consumer import NatsConsumer
from que.model import Completed, Delivery, Envelope, Redeliver, Released, Settled
from tests.engines.recording import Notices
from tests.nats.conftest import StartNats
from tests.nats.recording import opened
from tests.nats.server import NatsServer
from tests.unit.loops import in_loop, until


def envelope(id: str = "a", background: bool = False, result_ttl: float | None = None) -> Envelope:
    return Envelope(id, "f", id.encode(), background, result_ttl=result_ttl)


async def consumer(driver: NatsDriver, notices: Notices | None = None, slots: int = 10) -> NatsConsumer:
    return await driver.register(["f"], slots, notices or Notices())


async def one(taker: NatsConsumer) -> Delivery:
    async with asyncio.timeout(30):
        (delivery,) = await taker.reserve(1)
    return delivery


@in_loop
async def test_a_verdict_is_settled_after_a_restart_that_came_in_between(own_nats: StartNats) -> None:
    server = own_nats()
    async with opened(server.url) as (client, told), opened(server.url) as (worker, _):
        await client.submit([envelope(result_ttl=60)])
        taker = await consumer(worker)
        delivery = await one(taker)
        await asyncio.to_thread(server.restart)
        assert await taker.settle([(delivery, Completed(b"late"))]) == [Settled.CONFIRMED]
        await until(lambda: told.ends)
        assert told.ends == {"a": b"late"}
        await client.submit([envelope("b")])
        again = await one(taker)
        assert again.id == "b"


@in_loop
async def test_a_result_that_was_kept_is_told_after_the_outage_in_which_it_came(own_nats: StartNats) -> None:
    server = own_nats()
    async with opened(server.url) as (client, told), opened(server.url) as (worker, _):
        await client.submit([envelope("kept", result_ttl=60), envelope("bare")])
        taker = await consumer(worker)
        deliveries = [await one(taker), await one(taker)]
        # The client is not there to hear of it.
        await client._opened().link.close()  # pyright: ignore[reportPrivateUsage] # no other way to cut one line
        await taker.settle([(delivery, Completed(b"done")) for delivery in deliveries])
        await until(lambda: not server.streams()["que_jobs"])
        link = client._opened().link  # pyright: ignore[reportPrivateUsage]
        link._closed = False  # pyright: ignore[reportPrivateUsage]
        link._lost(None)  # pyright: ignore[reportPrivateUsage]
        await until(lambda: len(told.ends) == 2)
        assert told.ends["kept"] == b"done"
        assert isinstance(told.ends["bare"], que.ConnectionLost)


@in_loop
async def test_jobs_that_wait_when_the_server_restarts_are_told_to_their_submitter_after_it(
    own_nats: StartNats,
) -> None:
    server = own_nats()
    async with opened(server.url) as (client, told), opened(server.url) as (worker, _):
        # Kept, for the worker may be back before the client.
        await client.submit([envelope(result_ttl=60)])
        await asyncio.to_thread(server.restart)
        taker = await consumer(worker)
        await taker.settle([(await one(taker), Completed(b"good"))])
        await until(lambda: told.ends)
        assert told.ends == {"a": b"good"}


@in_loop
async def test_a_submit_while_the_server_is_away_is_not_sent_once_the_timeout_is_over(own_nats: StartNats) -> None:
    server = own_nats()
    async with opened(f"{server.url}?timeout=0.3") as (client, _):
        server.kill()
        await until(lambda: not client._opened().link.up.is_set())  # pyright: ignore[reportPrivateUsage]
        with pytest.raises(que.NotSent):
            await client.submit([envelope()])


@in_loop
async def test_a_submit_that_a_frozen_server_does_not_answer_is_ambiguous(own_nats: StartNats) -> None:
    server = own_nats()
    async with opened(f"{server.url}?timeout=0.3") as (client, told):
        with server.stopped():
            await client.submit([envelope()])
        assert isinstance(told.ends["a"], que.SubmitAmbiguous)


@in_loop
async def test_a_dead_server_is_noticed_by_its_silence(own_nats: StartNats) -> None:
    server = own_nats()
    async with opened(f"{server.url}?heartbeat=0.1") as (client, _):
        link = client._opened().link  # pyright: ignore[reportPrivateUsage]
        with server.stopped():
            await until(lambda: not link.up.is_set())
        await until(link.up.is_set)


@in_loop
async def test_streams_that_were_removed_are_made_again_by_the_next_submit_and_its_worker(nats: NatsServer) -> None:
    async with opened(f"{nats.url}?lease=1") as (client, told), opened(f"{nats.url}?lease=1") as (worker, _):
        taker = await consumer(worker)
        reserving = asyncio.create_task(one(taker))
        await asyncio.sleep(0)
        nats.remove_streams()
        await client.submit([envelope()])
        await taker.settle([(await reserving, Completed(b"good"))])
        await until(lambda: told.ends)
        assert told.ends == {"a": b"good"}


@in_loop
async def test_a_consumer_whose_lease_is_another_is_refused_with_the_way_out(url: str) -> None:
    async with opened(f"{url}?lease=5") as (first, _):
        await consumer(first)
    async with opened(f"{url}?lease=6") as (second, _):
        with pytest.raises(que.ConfigurationError, match="use lease=5"):
            await consumer(second)


@in_loop
async def test_a_job_given_back_again_and_again_is_still_at_its_first_attempt(nats: NatsServer) -> None:
    async with opened(nats.url) as (client, _), opened(nats.url) as (worker, _):
        await client.submit([envelope()])
        taker = await consumer(worker)
        for _ in range(3):
            delivery = await one(taker)
            assert delivery.attempt == 1
            await taker.settle([(delivery, Released())])
        await taker.settle([(await one(taker), Redeliver(0))])
        last = await one(taker)
        assert last.attempt == 2
        await taker.settle([(last, Completed(b""))])
        await until(lambda: not any(nats.streams().values()))


@in_loop
async def test_what_nobody_reserves_goes_to_another_consumer_as_if_it_had_not_been_taken(url: str) -> None:
    async with opened(url) as (client, _), opened(url) as (idle, _), opened(url) as (busy, _):
        lazy = await consumer(idle)
        reserving = asyncio.create_task(lazy.reserve(1))
        await asyncio.sleep(0.2)
        reserving.cancel()
        await asyncio.wait([reserving])
        await client.submit([envelope(str(number)) for number in range(3)])
        taker = await consumer(busy)
        taken = [await one(taker) for _ in range(3)]
        assert sorted((delivery.id, delivery.attempt) for delivery in taken) == [("0", 1), ("1", 1), ("2", 1)]


@in_loop
async def test_jobs_in_memory_are_not_stated_durable_and_are_made_anew_after_a_restart(own_nats: StartNats) -> None:
    server = own_nats()
    async with opened(f"{server.url}?storage=memory") as (client, told):
        assert not client.capabilities.durable
        await client.submit([envelope()])
        await asyncio.to_thread(server.restart)
        await until(lambda: told.ends)
        assert isinstance(told.ends["a"], que.ConnectionLost)
        await client.submit([envelope("b")])
        assert "b" in told.receipts


@in_loop
async def test_a_wrong_password_is_refused_and_not_shown(own_nats: StartNats) -> None:
    server = own_nats("--user", "joe", "--pass", "right", user="joe", **{"pass": "right"})
    address = server.url.removeprefix("nats://")
    for credentials in ("", "joe:wrong@"):
        with pytest.raises(que.ConnectError, match="Authorization") as caught:
            async with opened(f"nats://{credentials}{address}"):
                pass
        assert "wrong" not in str(caught.value)
        assert address in str(caught.value)
    async with opened(f"nats://joe:right@{address}") as (client, told):
        await client.submit([envelope()])
        assert told.receipts


@in_loop
async def test_a_server_without_jetstream_is_refused_by_the_name_of_what_is_missing(bare_nats: int) -> None:
    with pytest.raises(que.ConnectError, match="is JetStream enabled"):
        async with opened(f"nats://127.0.0.1:{bare_nats}?timeout=1"):
            pass


@in_loop
async def test_a_server_that_is_not_there_is_refused_within_the_timeout(tmp_path: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(que.ConnectError, match=r"127\.0\.0\.1:1"):
        async with opened("nats://127.0.0.1:1?timeout=5"):
            pass
    assert time.monotonic() - begun < 20


@in_loop
async def test_a_server_that_is_too_old_is_named_with_its_version() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"version": "2.8.4", "headers": true, "max_payload": 1048576}\r\n')
        while line := await reader.readline():
            if line == b"PING\r\n":
                writer.write(b"PONG\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(que.ConnectError, match=r"the server is 2\.8\.4, and 2\.9 or later is needed"):
            await que.Que(f"nats://127.0.0.1:{port}?timeout=5").connect()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("nats://h?prefix=a.b", "prefix"),
        ("nats://h?storage=disk", "file or memory"),
        ("nats://h/path", "no paths"),
        ("nats://h?lease=0", "lease"),
        ("nats://h?leese=1", "did you mean lease"),
        ("nats://h?creds=/nowhere", "creds"),
        ("nats://h?cafile=x", "unknown option"),
    ],
)
def test_an_option_that_cannot_be_meant_is_refused_with_its_name(url: str, reason: str) -> None:
    with pytest.raises(que.ConfigurationError, match=reason):
        que.Que(url)


@in_loop
@pytest.mark.parametrize("reference", ["", "999999", "-1", "words", "9" * 30, "1.5", "٣"])
async def test_a_receipt_of_no_job_is_unknown_and_not_cancelled(url: str, reference: str) -> None:
    async with que.Que(url) as app:
        job = app.add(que.Job("double", int, int))
        receipt = que.Receipt("nats", "double", "id", reference)
        with pytest.raises(que.JobUnknown):
            await app.handle(job, receipt)
        assert not (await app.status(receipt)).known
        assert not await app.cancel(receipt)
