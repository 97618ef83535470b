"""What goes wrong with RabbitMQ: its limits, its alarms, its refusals, and other people's hands in its queues."""

import asyncio
import logging
from collections.abc import Iterator

import pytest
from pamqp.common import FieldTable

import que
from que.address import Address
from que.driver import open_driver
from que.drivers.amqp.wire import Method
from que.model import Completed, DeadLetter, Envelope, Failed, Settled
from que.testing.sinks import Notices, Recorder
from tests.amqp.raw import depth, prefix_of, raw_channel, take
from tests.amqp.server import RabbitMQ
from tests.amqp.test_jobs import declared, doubling, working
from tests.servers import free_port
from tests.unit.loops import in_loop, ticks, until


@in_loop
async def test_a_server_that_is_not_there_is_named_without_the_password() -> None:
    with pytest.raises(que.ConnectError, match=r"amqp://user:\*\*\*@127.0.0.1") as caught:
        await que.Que(f"amqp://user:secret@127.0.0.1:{free_port()}").connect()
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "reason"),
    [("amqp://guest:wrong@", "ACCESS_REFUSED"), ("amqp://nobody:x@", "ACCESS_REFUSED")],
    ids=["a wrong password", "an unknown user"],
)
@in_loop
async def test_who_may_not_enter_is_told_why(node: RabbitMQ, change: str, reason: str) -> None:
    with pytest.raises(que.ConnectError, match=reason):
        await que.Que(node.url.replace("amqp://", change)).connect()


@in_loop
async def test_a_virtual_host_that_is_not_there_is_named(node: RabbitMQ) -> None:
    with pytest.raises(que.ConnectError, match=r"vhost.*nowhere"):
        await que.Que(f"{node.url}/nowhere").connect()


@in_loop
async def test_the_second_node_serves_when_the_first_is_away(node: RabbitMQ, url: str) -> None:
    several = url.replace("127.0.0.1:", f"127.0.0.1:{free_port()},127.0.0.1:")
    async with que.Que(several) as client, working(several, doubling()):
        assert await declared(client).submit(21) == 42


@in_loop
async def test_a_queue_that_somebody_deleted_is_made_again_for_submitters_and_workers(url: str) -> None:
    async with que.Que(url) as client, working(url, doubling()), raw_channel(url) as channel:
        job = declared(client)
        assert await job.submit(1) == 2
        await channel.call(Method.QUEUE_DELETE, 0, f"{prefix_of(url)}.double", False, False, False)
        assert await que.gather(*job.submit_many(range(5))) == (0, 2, 4, 6, 8)


@in_loop
async def test_a_queue_of_somebody_elses_making_is_used_and_the_difference_explained(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with raw_channel(url) as channel:
        await channel.call(
            Method.QUEUE_DECLARE, 0, f"{prefix_of(url)}.double", False, True, False, False, False, {"x-max-length": 9}
        )
    async with que.Que(url) as client, working(url, doubling()):
        assert await declared(client).submit(21) == 42
    assert any("is used as it is" in record.message and "inequivalent" in record.message for record in caplog.records)


@in_loop
async def test_a_full_queue_of_a_users_policy_is_said_to_be_full(url: str) -> None:
    full: FieldTable = {"x-max-length": 1, "x-overflow": "reject-publish"}
    async with raw_channel(url) as channel, que.Que(url) as client:
        await channel.call(Method.QUEUE_DECLARE, 0, f"{prefix_of(url)}.double", False, True, False, False, False, full)
        job = declared(client)
        await job.send(1)
        # RabbitMQ lets a little more in than it says.
        ends = await asyncio.gather(*[job.send(number) for number in range(20)], return_exceptions=True)
        assert isinstance(ends[-1], que.QueueFull)


@in_loop
async def test_a_lease_ends_with_its_connection_and_its_verdict_counts_no_more(url: str) -> None:
    events, first_notices = Recorder(), Notices()
    one, other = open_driver(Address.parse(url)), open_driver(Address.parse(url))
    await one.connect(Recorder())
    await other.connect(events)
    try:
        await other.submit([Envelope("a", "f", b"1")])
        first = await one.register(["f"], 1, first_notices)
        (taken,) = await first.reserve(1)
        await one.disconnect()
        second = await other.register(["f"], 1, Notices())
        (again,) = await second.reserve(1)
        assert (taken.attempt, again.attempt) == (1, 2)
        assert await first.settle([(taken, Completed(b"stale"))]) == [Settled.LOST]
        assert await second.settle([(again, Completed(b"fresh"))]) == [Settled.CONFIRMED]
        await until(lambda: events.ends)
        assert list(events.ends.values()) == [b"fresh"]
    finally:
        await one.disconnect()
        await other.disconnect()


@in_loop
async def test_garbage_in_the_place_of_a_receipt_is_no_dead_letter(url: str) -> None:
    async with que.Que(url) as client:
        job = declared(client)
        letter = DeadLetter("garbage@@%%\x00", "double", b"", Failed("", "", ""), None, 0.0)
        assert await client.replay(job, [letter]) == 0
        assert await client.drop(job, [letter]) == 0


@pytest.fixture
def strict(node: RabbitMQ) -> Iterator[RabbitMQ]:
    """A node that takes a job away after a second, as others do after half an hour."""
    try:
        node.set("channel_tick_interval, 300", "consumer_timeout, 1000")
        yield node
    finally:
        node.set("channel_tick_interval, 60000", "consumer_timeout, 1800000")


@in_loop
async def test_a_job_that_runs_longer_than_consumer_timeout_is_explained_and_bounded(
    strict: RabbitMQ, caplog: pytest.LogCaptureFixture
) -> None:
    runs: list[int | None] = []
    async with que.Que(f"{strict.url}?prefix=timeout&backoff=0.1") as app:

        @app.job("endless", retry=que.Retry(attempts=2))
        async def endless(params: int, context: que.Context[None]) -> None:
            runs.append(context.attempt)
            await asyncio.sleep(60)

        async with app.worker(concurrency=2):
            with pytest.raises(que.JobFailed, match="its worker was lost in each of 2 runs"):
                await endless.submit(1).result(timeout=40)
    assert runs == [1, 2]
    assert any("consumer_timeout" in record.message and record.levelno == logging.ERROR for record in caplog.records)


@in_loop
async def test_a_server_short_of_memory_holds_jobs_back_and_takes_them_afterwards(node: RabbitMQ) -> None:
    control = asyncio.to_thread
    async with que.Que(f"{node.url}?prefix=blocked&timeout=60") as client:
        job = declared(client)
        await job.send(1)
        await control(node.control, "set_vm_memory_high_watermark", "0.000001")
        try:
            # The server stops to read from a connection once that publishes.
            held = [job.send(number) for number in range(3)]
            await until(lambda: "memory resource limit alarm set" in node.log)
            accepting = asyncio.gather(*held)
            await ticks(50)
            assert not accepting.done()
        finally:
            await control(node.control, "set_vm_memory_high_watermark", "0.4")
        await accepting
        async with raw_channel(node.url) as channel:
            assert await depth(channel, "blocked.double") == 4


@in_loop
async def test_a_job_that_no_worker_survives_is_buried_by_the_server_itself(url: str) -> None:
    async with que.Que(url) as client, raw_channel(url) as channel:
        job = declared(client)
        await job.send(7)
        queue = f"{prefix_of(url)}.double"
        for _ in range(101):
            taken = await take(channel, queue)
            channel.send(Method.BASIC_NACK, taken.args[0], False, True)
        async with asyncio.timeout(20):
            while not (letters := await client.dead_letters(job)):
                await asyncio.sleep(0.01)
        assert (letters[0].payload, letters[0].failure.kind) == (b"7", "crashed")


@in_loop
async def test_a_node_that_stands_still_costs_its_workers_their_jobs_and_its_submitters_their_answers(
    node: RabbitMQ,
) -> None:
    events, notices = Recorder(), Notices()
    driver = open_driver(Address.parse(f"{node.url}?prefix=frozen&heartbeat=1&timeout=2&backoff=0.1"))
    await driver.connect(events)
    try:
        consumer = await driver.register(["f"], 1, notices)
        await driver.submit([Envelope("a", "f", b"1")])
        (taken,) = await consumer.reserve(1)
        with node.stopped():
            await driver.submit([Envelope("b", "f", b"2")])
            assert isinstance(events.ends["b"], que.SubmitAmbiguous)
            await until(lambda: "a" in events.ends)
            assert isinstance(events.ends["a"], que.ConnectionLost)
            await until(lambda: notices.gone == [taken])
            assert await consumer.settle([(taken, Completed(b"stale"))]) == [Settled.LOST]
        done: set[bytes] = set()
        while b"1" not in done:
            for delivery in await asyncio.wait_for(consumer.reserve(1), 20):
                done.add(delivery.payload)
                await consumer.settle([(delivery, Completed(b"null"))])
    finally:
        await driver.disconnect()
