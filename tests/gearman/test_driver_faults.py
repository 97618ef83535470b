"""The Gearman driver when servers die, stall, come back, or were never there."""

import asyncio
import logging

import pytest

from que.address import Address
from que.drivers.gearman import GearmanDriver, Receipt
from que.errors import ConnectError, ConnectionLost, NotConnected, NotSent, SubmitAmbiguous
from que.model import Completed, Delivery, Envelope, Settled, Verdict
from tests.gearman.driving import Events, Notices, completed, driving, jobs, run, serving, take, until
from tests.gearman.proxy import proxying
from tests.servers import Gearmand, StartGearmand, free_port

QUICK = "heartbeat=0.2&deadline=0.2&connect_timeout=0.5&backoff=0.1"


def both(*servers: Gearmand, options: str = QUICK) -> str:
    hosts = ",".join(f"127.0.0.1:{server.port}" for server in servers)
    return f"gearman://{hosts}?{options}"


def test_a_killed_server_leaves_each_job_with_its_typed_outcome_and_both_sides_working_again(
    own_gearmand: StartGearmand,
) -> None:
    server = own_gearmand()

    async def scenario() -> None:
        release = asyncio.Event()

        async def handler(delivery: Delivery) -> Verdict:
            await release.wait()
            return Completed(delivery.payload)

        async with driving(both(server)) as (driver, events), serving(driver, ["f"], 5, handler) as served:
            await driver.submit([*jobs("f", 20), Envelope("sent", "f", b"x", background=True)])
            await until(lambda: len(events.all("accepted")) == 21, "all to be accepted")
            await until(lambda: len(served.deliveries) == 5, "five to run")
            server.kill()
            for kind, error in await events.ended(*(f"job-{number}" for number in range(20))):
                assert (kind, type(error)) == ("lost", ConnectionLost)
            await until(lambda: len(served.notices.losses) == 5, "the worker to hear of its losses")
            assert served.notices.losses == served.deliveries
            await driver.submit(jobs("f", 3, "while-down"))
            release.set()
            await until(lambda: served.settled[:5] == [Settled.LOST] * 5, "the verdicts to be lost")
            await events.ended("while-down-0", "while-down-1", "while-down-2")

        assert [event[0] for event in events.of["sent"]] == ["accepted"]

    async def restarted() -> None:
        async with driving(both(server)) as (driver, events), serving(driver, ["f"]):
            for round_number in range(3):
                batch = jobs("f", 10, f"round-{round_number}")
                await driver.submit(batch)
                ends = await events.ended(*(envelope.id for envelope in batch))
                assert {kind for kind, *_ in ends} == {"completed"}
                server.kill()
                await asyncio.to_thread(server.restart)

    async def waiting() -> None:
        task = asyncio.create_task(scenario())
        await until(lambda: task.done() or not _is_running(server), "the kill")
        await asyncio.to_thread(server.restart)
        await task

    run(waiting())
    run(restarted())


def _is_running(server: Gearmand) -> bool:
    try:
        return server.pid > 0
    except AssertionError:
        return False


def test_a_job_that_was_sent_to_a_silent_server_is_ambiguous(own_gearmand: StartGearmand) -> None:
    server = own_gearmand()

    async def scenario() -> None:
        async with driving(both(server)) as (driver, events):
            await driver.submit([Envelope("accepted", "f", b"1")])
            await events.receipt("accepted")
            with server.stopped():
                await driver.submit([Envelope("unanswered", "f", b"2"), Envelope("sent", "f", b"3", True)])
                ends = await events.ended("accepted", "unanswered", "sent")
                assert [(kind, type(error)) for kind, error in ends] == [
                    ("lost", ConnectionLost), ("refused", SubmitAmbiguous), ("refused", SubmitAmbiguous),
                ]  # fmt: skip
                assert "silent" in str(ends[0][1])
            await driver.submit([Envelope("again", "f", b"4")])
            await events.receipt("again")

    run(scenario())


def test_jobs_that_had_not_begun_to_leave_go_to_another_server(own_gearmand: StartGearmand) -> None:
    dead, alive = own_gearmand(), own_gearmand()

    async def scenario() -> None:
        async with driving(both(dead, alive)) as (driver, events), driving(alive.url) as (working, _):
            payload = bytes(200_000)
            with dead.stopped():
                batch = [Envelope(f"job-{number}", "f", payload) for number in range(120)]
                await driver.submit(batch)
                async with serving(working, ["f"], handler=_short):
                    ends = await events.ended(*(envelope.id for envelope in batch))
            kinds = [end[0] if end[0] == "completed" else type(end[1]) for end in ends]
            assert set(kinds) == {"completed", SubmitAmbiguous}
            moved = [id for id, event in events.all("accepted").items() if str(dead.port) in str(event[1])]
            assert moved == [], "the stopped server accepted nothing"
            own = [envelope for envelope in batch if events.end(envelope.id) == ("completed", b"short")]
            assert len(own) > 70, "about half of all, and of the rest those that had not left"

    run(scenario())


async def _short(delivery: Delivery) -> Verdict:
    return Completed(b"short")


def test_a_job_waits_for_a_server_that_comes_back(own_gearmand: StartGearmand) -> None:
    server = own_gearmand()

    async def scenario() -> None:
        async with driving(both(server)) as (driver, events), serving(driver, ["f"]):
            server.kill()
            submitting = asyncio.create_task(driver.submit(jobs("f", 3)))
            await asyncio.to_thread(server.restart)
            await submitting
            ends = await events.ended("job-0", "job-1", "job-2")
            assert {kind for kind, *_ in ends} <= {"completed", "refused"}
            await driver.submit(jobs("f", 3, "later"))
            assert {kind for kind, *_ in await events.ended("later-0", "later-1", "later-2")} == {"completed"}

    run(scenario())


@pytest.mark.parametrize("timeout", ["0", "0.3"])
def test_a_job_without_a_server_is_not_sent_after_submit_timeout(own_gearmand: StartGearmand, timeout: str) -> None:
    server = own_gearmand()

    async def scenario() -> None:
        async with driving(f"{both(server)}&submit_timeout={timeout}") as (driver, events):
            server.kill()
            await until(lambda: not driver.links_up, "the driver to notice")
            await driver.submit(jobs("f", 3))
            for kind, error in await events.ended("job-0", "job-1", "job-2"):
                assert (kind, type(error)) == ("refused", NotSent)
            assert len(events.of) == 3

    run(scenario())


def test_the_next_server_stands_in_for_a_dead_one_until_it_is_back(own_gearmand: StartGearmand) -> None:
    servers = [own_gearmand() for _ in range(3)]

    async def scenario() -> None:
        async with driving(both(*servers)) as (driver, events), serving(driver, ["f"]):

            async def homes(prefix: str) -> dict[int, int]:
                """The port of the server that took each key."""
                ids = [f"{prefix}-{number}" for number in range(60)]
                await driver.submit([Envelope(id, "f", b"x", unique=id.split("-")[1]) for id in ids])
                await events.ended(*ids)
                ports = [Receipt.parse(await events.receipt(id)).server.rpartition(":")[2] for id in ids]
                return dict(enumerate(map(int, ports)))

            before = await homes("before")
            assert set(before.values()) == {server.port for server in servers}
            servers[0].kill()
            await until(lambda: len(driver.links_up) == 2, "the driver to notice")
            during = await homes("during")
            assert all(
                during[key] == port if port != servers[0].port else during[key] != port for key, port in before.items()
            )
            assert set(during.values()) == {server.port for server in servers[1:]}
            await asyncio.to_thread(servers[0].restart)
            await until(lambda: len(driver.links_up) == 3, "the driver to reconnect")
            assert await homes("after") == before

    run(scenario())


def test_connect_succeeds_when_one_server_answers_and_warns_of_the_others(
    own_gearmand: StartGearmand, caplog: pytest.LogCaptureFixture
) -> None:
    server = own_gearmand()
    absent = free_port()

    async def scenario() -> None:
        url = f"gearman://127.0.0.1:{absent},127.0.0.1:{server.port}?{QUICK}"
        async with driving(url) as (driver, events), serving(driver, ["f"]):
            await driver.submit(jobs("f", 20))
            await events.ended(*(f"job-{number}" for number in range(20)))

    with caplog.at_level(logging.WARNING, "que.gearman"):
        run(scenario())
    mine = [record.getMessage() for record in caplog.records if str(absent) in record.getMessage()]
    assert len([message for message in mine if message.startswith("client")]) == 1, "once an outage"
    assert len([message for message in mine if message.startswith("worker")]) == 1


def test_an_outage_and_its_end_are_logged_once_each(
    own_gearmand: StartGearmand, caplog: pytest.LogCaptureFixture
) -> None:
    server = own_gearmand()

    async def scenario() -> None:
        async with driving(both(server)) as (driver, _):
            server.kill()
            attempts = 0

            async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                nonlocal attempts
                attempts += 1
                writer.transport.abort()

            stand_in = await asyncio.start_server(hang_up, "127.0.0.1", server.port)
            await until(lambda: attempts > 4, "several attempts to fail")
            stand_in.close()
            await stand_in.wait_closed()
            await asyncio.to_thread(server.restart)
            await until(lambda: driver.links_up, "the driver to reconnect")

    with caplog.at_level(logging.WARNING, "que.gearman"):
        run(scenario())
    assert [("again" in record.getMessage()) for record in caplog.records] == [False, True]


def test_connect_fails_when_no_server_answers_and_leaves_nothing_behind(own_gearmand: StartGearmand) -> None:
    ports = free_port(), free_port()

    async def scenario() -> None:
        driver = GearmanDriver(Address.parse(f"gearman://127.0.0.1:{ports[0]},127.0.0.1:{ports[1]}?{QUICK}"))
        with pytest.raises(ConnectError) as failure:
            await driver.connect(Events())
        assert all(f"127.0.0.1:{port}" in str(failure.value) for port in ports)
        with pytest.raises(NotConnected):
            await driver.register(["f"], 1, Notices())
        assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("que ")]

    run(scenario())


def test_a_server_that_accepts_and_never_answers_counts_as_absent(own_gearmand: StartGearmand) -> None:
    server = own_gearmand()

    async def scenario() -> None:
        driver = GearmanDriver(Address.parse(both(server)))
        with server.stopped(), pytest.raises(ConnectError, match=r"no answer|silent"):
            await driver.connect(Events())

    run(scenario())


def test_a_peer_that_speaks_no_gearman_counts_as_absent() -> None:
    async def scenario() -> None:
        async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            await reader.read()
            writer.close()

        other = await asyncio.start_server(babble, "127.0.0.1", 0)
        port = other.sockets[0].getsockname()[1]
        driver = GearmanDriver(Address.parse(f"gearman://127.0.0.1:{port}"))
        with pytest.raises(ConnectError, match="magic"):
            await driver.connect(Events())
        other.close()
        await other.wait_closed()

    run(scenario())


def test_a_disconnect_gives_every_job_its_outcome_at_once_and_is_harmless_twice(own_gearmand: StartGearmand) -> None:
    server = own_gearmand()

    async def scenario() -> None:
        driver, events = GearmanDriver(Address.parse(server.url)), Events()
        await driver.connect(events)
        await driver.submit([Envelope("watched", "f", b"1")])
        await events.receipt("watched")
        with server.stopped():
            await driver.submit([Envelope("sent", "f", b"2")])
            large = [Envelope(f"large-{number}", "f", bytes(1 << 20)) for number in range(16)]
            submitting = asyncio.create_task(driver.submit(large))
            await asyncio.sleep(0)
            await driver.disconnect()
            await driver.disconnect()
            await submitting
        outcomes = {id: type(end[1]) for id in events.of if (end := events.end(id))}
        assert outcomes["watched"] is ConnectionLost
        assert outcomes["sent"] is SubmitAmbiguous
        assert {outcomes[envelope.id] for envelope in large} == {SubmitAmbiguous, NotSent}

    run(scenario())


def test_a_submit_waits_while_its_transport_is_full(own_gearmand: StartGearmand) -> None:
    server = own_gearmand()

    async def scenario() -> None:
        async with driving(server.url) as (driver, events), serving(driver, ["f"], handler=_short):
            batch = [Envelope(f"job-{number}", "f", bytes(1 << 20)) for number in range(16)]
            with server.stopped():
                submitting = asyncio.create_task(driver.submit(batch))
                done, _ = await asyncio.wait([submitting], timeout=0.3)
                assert not done, "else nothing would bound what waits"
            await submitting
            await events.ended(*(envelope.id for envelope in batch))

    run(scenario())


def test_what_nobody_had_reserved_yet_is_lost_without_a_word(own_gearmand: StartGearmand) -> None:
    server = own_gearmand()

    async def scenario() -> None:
        notices = Notices()
        async with driving(both(server)) as (driver, events):
            consumer = await driver.register(["f"], 4, notices)
            await driver.submit(jobs("f", 3))
            await events.receipt("job-2")
            held = await consumer.reserve(4)
            await until(lambda: consumer.buffered == 3 - len(held) > 0, "more to arrive than was taken")
            server.kill()
            await until(lambda: not consumer.connected, "the worker to notice")
            assert notices.losses == held, "nobody has the others"
            await asyncio.to_thread(server.restart)
            await until(lambda: consumer.connected, "the worker to reconnect")
            assert not consumer.buffered
            await consumer.close()

    run(scenario())


def test_a_lost_server_takes_its_own_jobs_only(own_gearmand: StartGearmand) -> None:
    lost, kept = own_gearmand(), own_gearmand()

    async def scenario() -> None:
        async with driving(both(lost)) as (first, _), driving(both(kept)) as (second, events):
            await first.submit([Envelope("on-lost", "f", b"1")])
            await second.submit([Envelope("on-kept", "f", b"2")])
            async with driving(both(lost, kept)) as (driver, _):
                notices = Notices()
                consumer = await driver.register(["f"], 4, notices)
                deliveries = {delivery.id: delivery for delivery in await take(consumer, 2)}
                waiting = asyncio.create_task(consumer.reserve(2))
                lost.kill()
                await until(lambda: notices.losses, "the loss")
                assert notices.losses == [deliveries["on-lost"]]
                assert await consumer.settle(completed(list(deliveries.values()))) == [
                    Settled.CONFIRMED if id == "on-kept" else Settled.LOST for id in deliveries
                ]
                assert await events.ended("on-kept") == [("completed", b"2")]
                await asyncio.to_thread(lost.restart)
                await until(lambda: first.links_up, "the client to reconnect")
                await first.submit([Envelope("anew", "f", b"3")])
                (anew,) = await waiting
                assert anew.id == "anew"
                await consumer.settle(completed([anew]))
                await consumer.close()

    run(scenario())


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_slow_transfer_is_not_taken_for_a_dead_peer(own_gearmand: StartGearmand, direction: str) -> None:
    server = own_gearmand()
    large = bytes(12 << 20)

    async def big(delivery: Delivery) -> Verdict:
        return Completed(large if direction == "down" else b"small")

    async def scenario() -> None:
        async with (
            proxying(server.port, bytes_at_once=64 * 1024, pause_seconds=0.005) as proxy,
            driving(f"gearman://127.0.0.1:{proxy.port}?{QUICK}") as (driver, events),
            driving(server.url) as (working, _),
            serving(working, ["f"], handler=big),
        ):
            await driver.submit([Envelope("x", "f", large if direction == "up" else b"small")])
            ((kind, payload),) = await events.ended("x")
            assert kind == "completed", payload
            assert len(proxy.sent) == 1, "it never had to connect again"

    run(scenario())


def test_an_idle_connection_lives_on_its_heartbeat(own_gearmand: StartGearmand) -> None:
    server = own_gearmand()

    async def scenario() -> None:
        async with (
            proxying(server.port) as proxy,
            driving(f"gearman://127.0.0.1:{proxy.port}?heartbeat=0.05&deadline=5") as (driver, events),
            serving(driver, ["f"]),
        ):
            await until(lambda: all(len(record) > 6 for record in proxy.sent), "several heartbeats")
            await driver.submit(jobs("f", 1))
            assert await events.ended("job-0") == [("completed", b"payload-0")]
            assert len(proxy.sent) == 2

    run(scenario())


def test_a_worker_finds_a_silent_server_dead_and_serves_it_again_later(own_gearmand: StartGearmand) -> None:
    server = own_gearmand()

    async def scenario() -> None:
        async with driving(server.url) as (client, events), driving(both(server)) as (driver, _):
            notices = Notices()
            consumer = await driver.register(["f"], 2, notices)
            await client.submit(jobs("f", 1))
            (held,) = await take(consumer, 1)
            with server.stopped():
                await until(lambda: notices.losses == [held], "the loss")
                assert await consumer.settle(completed([held])) == [Settled.LOST]
            (again,) = await take(consumer, 1)
            assert again.id == held.id
            assert await consumer.settle(completed([again])) == [Settled.CONFIRMED]
            assert await events.ended("job-0") == [("completed", b"payload-0")]
            await consumer.close()

    run(scenario())


def test_a_disconnect_with_running_jobs_loses_them_and_the_server_has_them_again(own_gearmand: StartGearmand) -> None:
    server = own_gearmand()

    async def scenario() -> None:
        async with driving(server.url) as (client, events):
            notices = Notices()
            async with driving(server.url) as (driver, _):
                consumer = await driver.register(["f"], 2, notices)
                await client.submit(jobs("f", 1))
                (held,) = await take(consumer, 1)
            assert notices.losses == [held]
            assert await consumer.reserve(1) == ()
            assert await consumer.settle(completed([held])) == [Settled.LOST]
            async with serving(client, ["f"]):
                assert await events.ended("job-0") == [("completed", b"payload-0")]

    run(scenario())
