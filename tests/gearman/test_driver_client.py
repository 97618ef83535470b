"""The submitting side of the Gearman driver against a real gearmand."""

import asyncio
import time
import tracemalloc

import pytest

from que.drivers.gearman import Receipt
from que.drivers.gearman.admin import GearmanAdmin
from que.errors import InvalidName, JobCancelled, NotSent, QueueFull, Rejected
from que.gearman.packets import PacketType
from que.model import Completed, Delivery, Envelope, Failed, JobStatus, Priority, QueueDepth, Settled, Verdict
from tests.gearman.driving import Event, completed, driving, eventually, jobs, run, serving, take, until
from tests.gearman.raw import (
    WORK_COMPLETE,
    WORK_DATA,
    WORK_EXCEPTION,
    WORK_FAIL,
    WORK_STATUS,
    WORK_WARNING,
    Raw,
    grab,
    worker,
)
from tests.servers import Gearmand, StartGearmand

REASON = b'{"kind":"rejected","type":"","message":"no"}'
Report = tuple[int, *tuple[bytes, ...]]


@pytest.fixture
def name(function: bytes) -> str:
    """A function of this test's own, on the shared server."""
    return function.decode()


@pytest.mark.parametrize("priority", Priority)
def test_a_foreground_job_is_accepted_and_completed(gearmand: Gearmand, name: str, priority: Priority) -> None:
    async def scenario() -> None:
        async with driving(gearmand.url) as (driver, events), serving(driver, [name]) as served:
            await driver.submit([Envelope("the-id", name, b"da\0ta", priority=priority)])
            assert await events.ended("the-id") == [("completed", b"da\0ta")]
            receipt = Receipt.parse(await events.receipt("the-id"))
            assert receipt.server == f"127.0.0.1:{gearmand.port}"
            assert receipt.handle.startswith("H:")
            assert receipt.unique == "the-id"
            (delivery,) = served.deliveries
            assert (delivery.id, delivery.function, delivery.payload, delivery.attempt) == (
                "the-id", name, b"da\0ta", None,
            )  # fmt: skip
            assert served.settled == [Settled.CONFIRMED]

    run(scenario())


@pytest.mark.parametrize("background", [False, True], ids=["submit", "send"])
def test_a_higher_priority_runs_first(gearmand: Gearmand, name: str, background: bool) -> None:
    async def scenario() -> None:
        async with driving(gearmand.url) as (driver, events):
            for priority in (Priority.LOW, Priority.NORMAL, Priority.HIGH):
                await driver.submit([Envelope(priority.name, name, b"x", background, priority=priority)])
                await events.receipt(priority.name)
            async with serving(driver, [name], slots=1) as served:
                await until(lambda: len(served.deliveries) == 3, "three jobs")
            assert [delivery.id for delivery in served.deliveries] == ["HIGH", "NORMAL", "LOW"]

    run(scenario())


def test_each_of_many_pipelined_jobs_gets_its_own_answer(gearmand: Gearmand, name: str) -> None:
    async def scenario() -> None:
        async with driving(gearmand.url) as (driver, events), serving(driver, [name], slots=50):
            batch = jobs(name, 3000)
            await driver.submit(batch)
            await events.ended(*(envelope.id for envelope in batch))
            assert all(events.end(envelope.id) == ("completed", envelope.payload) for envelope in batch)

    run(scenario())


def test_a_background_job_ends_for_its_sender_with_its_acceptance(gearmand: Gearmand, name: str) -> None:
    async def scenario() -> None:
        async with driving(gearmand.url) as (driver, events), serving(driver, [name]) as served:
            await driver.submit([Envelope("sent", name, b"x", background=True)])
            await driver.submit([Envelope("after", name, b"y")])
            await events.ended("after")
            await until(lambda: len(served.deliveries) == 2, "both jobs")
            assert [event[0] for event in events.of["sent"]] == ["accepted"]

    run(scenario())


def test_a_delayed_job_is_never_early(gearmand: Gearmand, name: str) -> None:
    async def scenario() -> None:
        arrived: list[float] = []

        async def handler(delivery: Delivery) -> Verdict:
            arrived.append(time.time())
            return Completed(b"")

        async with driving(gearmand.url) as (driver, events), serving(driver, [name], handler=handler):
            due = time.time() + 1.0
            await driver.submit([Envelope("later", name, b"x", background=True, due=due)])
            await events.receipt("later")
            await until(lambda: arrived, "the delayed job")
            assert arrived[0] >= due

    run(scenario())


def test_a_delay_that_has_passed_is_no_delay(gearmand: Gearmand, name: str) -> None:
    async def scenario() -> None:
        async with driving(gearmand.url) as (driver, _), serving(driver, [name]) as served:
            past = time.time() - 5
            await driver.submit([Envelope("now", name, b"x", True, priority=Priority.HIGH, due=past)])
            await until(lambda: served.deliveries, "the job")

    run(scenario())


REFUSED = {
    "a delay that is awaited": (Envelope("x", "f", b"x", due=4e9), "background"),
    "a delay with a priority": (Envelope("x", "f", b"x", True, Priority.HIGH, due=4e9), "priority"),
    "a delay beyond all years": (Envelope("x", "f", b"x", True, due=1e18), "9999"),
    "a delay that is no number": (Envelope("x", "f", b"x", True, due=float("nan")), "nan"),
    "an expiry": (Envelope("x", "f", b"x", expires=5), "expires"),
    "an expiry of a delayed job": (Envelope("x", "f", b"x", True, due=4e9, expires=5), "expires"),
    "a run_timeout": (Envelope("x", "f", b"x", run_timeout=5), "run_timeout"),
    "an empty background job": (Envelope("x", "f", b"", True), "sqlite"),
    "an empty delayed job": (Envelope("x", "f", b"", True, due=4e9), "sqlite"),
    "too large a payload": (Envelope("x", "f", b"x" * 1001), "max_payload"),
    "a function with a blank": (Envelope("x", "f g", b"x"), "function"),
    "a function with a NUL": (Envelope("x", "f\0", b"x"), "function"),
    "a function without a name": (Envelope("x", "", b"x"), "function"),
    "a function of 513 bytes": (Envelope("x", "f" * 513, b"x"), "function"),
    "a key that is no text": (Envelope("x", "f", b"x", unique="\ud800"), "unique"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_gearman_has_no_place_for_is_refused_alone(gearmand: Gearmand, name: str, case: str) -> None:
    bad, reason = REFUSED[case]

    async def scenario() -> None:
        url = f"{gearmand.url}?max_payload=1000"
        async with driving(url) as (driver, events), serving(driver, [name]):
            await driver.submit([Envelope("before", name, b"1"), bad, Envelope("behind", name, b"2")])
            before, refused, behind = await events.ended("before", "x", "behind")
            assert (before, behind) == (("completed", b"1"), ("completed", b"2"))
            assert type(refused[1]) is Rejected
            assert reason in str(refused[1])

    run(scenario())


def test_a_full_queue_refuses_the_job_that_it_has_no_room_for(gearmand: Gearmand, name: str) -> None:
    async def scenario() -> None:
        async with driving(gearmand.url) as (driver, events), GearmanAdmin(*gearmand.address) as admin:
            await driver.submit([Envelope("first", name, b"1")])
            await events.receipt("first")
            await admin.max_queue(name, 2)
            await driver.submit([Envelope("second", name, b"2"), Envelope("third", name, b"3")])
            ((kind, error),) = await events.ended("third")
            assert (kind, type(error)) == ("refused", QueueFull)
            async with serving(driver, [name]):
                assert await events.ended("first", "second") == [("completed", b"1"), ("completed", b"2")]

    run(scenario())


@pytest.mark.parametrize(
    "key", ["key", "k" * 200, "tab\tand\nline", "ключ" * 20], ids=["short", "long", "control", "utf-8"]
)
def test_jobs_with_one_key_run_once_and_each_submitter_gets_every_event_once(
    gearmand: Gearmand, name: str, key: str
) -> None:
    async def scenario() -> None:
        async with driving(gearmand.url) as (driver, events):
            consumer_slots = 4
            for id in ("a", "b", "c"):
                await driver.submit([Envelope(id, name, id.encode(), unique=key)])
            receipts = {(await events.receipt(id)) for id in ("a", "b", "c")}
            assert len(receipts) == 1
            assert len(Receipt.parse(receipts.pop()).unique.encode()) <= 63

            async def handler(delivery: Delivery) -> Verdict:
                served.consumer.chunk(delivery, b"part")
                served.consumer.progress(delivery, 1, 2)
                served.consumer.warned(delivery, "careful")
                return Completed(b"result")

            async with serving(driver, [name], consumer_slots, handler) as served:
                await events.ended("a", "b", "c")
            assert [delivery.payload for delivery in served.deliveries] == [b"a"], "the first payload wins"
            for id in ("a", "b", "c"):
                assert events.of[id][1:] == [
                    ("chunk", b"part"), ("progress", 1, 2), ("warned", "careful"), ("completed", b"result"),
                ]  # fmt: skip

    run(scenario())


def test_keys_of_submit_and_of_send_never_meet(gearmand: Gearmand, name: str) -> None:
    async def scenario() -> None:
        async with driving(gearmand.url) as (driver, events):
            await driver.submit([Envelope("sent", name, b"b", background=True, unique="key")])
            await driver.submit([Envelope("submitted", name, b"f", unique="key")])
            uniques = {Receipt.parse(await events.receipt(id)).unique for id in ("sent", "submitted")}
            assert uniques == {"b:key", "f:key"}
            async with serving(driver, [name]) as served:
                await events.ended("submitted")
                await until(lambda: len(served.deliveries) == 2, "both jobs")

    run(scenario())


def test_a_failure_travels_with_kind_type_and_message(gearmand: Gearmand, name: str) -> None:
    failure = Failed("handler", "ValueError", "naïve \ud800 \0 text")

    async def fail(delivery: Delivery) -> Verdict:
        return failure

    async def scenario() -> None:
        async with driving(gearmand.url) as (driver, events), serving(driver, [name], handler=fail) as served:
            await driver.submit([Envelope("x", name, b"1")])
            assert await events.ended("x") == [("failed", Failed("handler", "ValueError", "naïve ? \0 text"))]
            assert served.settled == [Settled.CONFIRMED]

    run(scenario())


@pytest.mark.parametrize(
    ("packets", "failure"),
    [
        ([(WORK_FAIL,)], Failed("handler", "", "")),
        ([(WORK_EXCEPTION, b"it broke \xff")], Failed("handler", "", "it broke \ufffd")),
        ([(WORK_EXCEPTION, b'{"kind": "rejected"}')], Failed("handler", "", '{"kind": "rejected"}')),
        ([(WORK_EXCEPTION, REASON)], Failed("rejected", "", "no")),
        ([(WORK_WARNING, REASON), (WORK_FAIL,)], Failed("rejected", "", "no")),
    ],
    ids=["WORK_FAIL", "words", "other JSON", "our JSON", "a reason and WORK_FAIL"],
)
def test_a_foreign_workers_failure_arrives(
    gearmand: Gearmand, name: str, packets: list[Report], failure: Failed
) -> None:
    told = reported(gearmand, name, (WORK_STATUS, b"half", b"100"), *packets)
    assert told == [("progress", 0, 100), ("failed", failure)]


def reported(gearmand: Gearmand, name: str, *packets: Report) -> list[Event]:
    """What the client of a job hears after its acceptance, when a foreign worker sends these packets."""

    def work() -> None:
        with worker(gearmand.port, name.encode()) as foreign:
            handle = grab(foreign)[0]
            for kind, *args in packets:
                foreign.send(kind, handle, *args)
            foreign.barrier()

    async def scenario() -> list[Event]:
        async with driving(gearmand.url) as (driver, events):
            await driver.submit([Envelope("x", name, b"1")])
            await events.receipt("x")
            await asyncio.to_thread(work)
            await events.ended("x")
            return events.of["x"][1:]

    return run(scenario())


@pytest.mark.parametrize(
    ("packet", "event"),
    [
        ((WORK_COMPLETE, b"done"), ("completed", b"done")),
        ((WORK_DATA, b"part"), ("chunk", b"part")),
        ((WORK_STATUS, b"1", b"2"), ("progress", 1, 2)),
        ((WORK_WARNING, b"words"), ("warned", "words")),
        ((WORK_EXCEPTION, b"words"), ("failed", Failed("handler", "", "words"))),
    ],
    ids=["a result", "a chunk", "progress", "a warning", "an exception"],
)
def test_a_warning_that_only_looks_like_a_reason_is_told_in_its_place(
    gearmand: Gearmand, name: str, packet: Report, event: Event
) -> None:
    told = reported(gearmand, name, (WORK_WARNING, REASON), packet, (WORK_COMPLETE, b"end"))
    assert told[:2] == [("warned", REASON.decode()), event]


def test_a_warning_that_looks_like_a_reason_is_told_before_its_job_is_lost(own_gearmand: StartGearmand) -> None:
    server = own_gearmand()

    def work() -> Raw:
        foreign = worker(server.port, b"f")
        handles = {args[3]: args[0] for args in (grab(foreign), grab(foreign))}
        foreign.send(WORK_WARNING, handles[b"payload-0"], REASON)
        foreign.send(WORK_STATUS, handles[b"payload-1"], b"1", b"2")
        return foreign

    async def scenario() -> None:
        async with driving(server.url) as (driver, events):
            await driver.submit(jobs("f", 2))
            await events.receipt("job-1")
            with await asyncio.to_thread(work):
                # One connection is one order: the warning has come too.
                await until(lambda: events.all("progress"), "what the worker says")
                server.kill()
                await events.ended("job-0")
        assert [event[0] for event in events.of["job-0"]] == ["accepted", "warned", "lost"]

    run(scenario())


def test_the_status_follows_a_job(gearmand: Gearmand, name: str) -> None:
    async def scenario() -> None:
        async with driving(gearmand.url) as (driver, events):
            await driver.submit([Envelope("x", name, b"1")])
            receipt = await events.receipt("x")
            assert await driver.status(receipt) == JobStatus(True, False, 0, 0, 1)
            consumer = await driver.register([name], 1, _Silent())
            deliveries = await take(consumer, 1)
            consumer.progress(deliveries[0], 3, 4)
            running = JobStatus(True, True, 3, 4, 1)

            async def runs() -> bool:
                return await driver.status(receipt) == running

            await eventually(runs, "the progress in the status")
            await consumer.settle(completed(deliveries))
            await events.ended("x")
            assert not (await driver.status(receipt)).known
            await consumer.close()

    run(scenario())


def test_a_status_is_refused_for_what_is_no_receipt_of_this_driver(gearmand: Gearmand) -> None:
    async def scenario() -> None:
        async with driving(gearmand.url) as (driver, _):
            for receipt in ("nonsense", "elsewhere:1/H:1/x", "//"):
                with pytest.raises(InvalidName):
                    await driver.status(receipt)

    run(scenario())


def test_a_handle_that_was_given_anew_is_not_taken_for_the_old_job(gearmand: Gearmand, name: str) -> None:
    async def scenario() -> None:
        async with driving(gearmand.url) as (driver, events):
            await driver.submit([Envelope("new", name, b"1")])
            new = Receipt.parse(await events.receipt("new"))
            old = str(new._replace(unique="a-job-before-the-restart"))
            assert not (await driver.status(old)).known
            assert not await driver.cancel(old)
            assert (await driver.status(str(new))).known

    run(scenario())


def test_a_queued_job_can_be_cancelled_and_never_runs(gearmand: Gearmand, name: str) -> None:
    async def scenario() -> None:
        async with driving(gearmand.url) as (driver, events):
            await driver.submit([Envelope("x", name, b"1"), Envelope("y", name, b"2")])
            await driver.submit([Envelope("z", name, b"3", background=True)])
            assert await driver.cancel(await events.receipt("x"))
            assert await driver.cancel(await events.receipt("z"))
            ((kind, error),) = await events.ended("x")
            assert (kind, type(error)) == ("lost", JobCancelled)
            async with serving(driver, [name]) as served:
                await events.ended("y")
            assert [delivery.id for delivery in served.deliveries] == ["y"]

    run(scenario())


@pytest.mark.parametrize("runs", [False, True], ids=["queued", "running"])
def test_a_handle_that_names_another_job_than_the_unique_cancels_neither(
    gearmand: Gearmand, name: str, runs: bool
) -> None:
    async def scenario() -> None:
        async with driving(gearmand.url) as (driver, events), driving(gearmand.url) as (other, _):
            consumer = await other.register([name], 1, _Silent())
            await driver.submit(jobs(name, 1))
            running = await take(consumer, 1) if runs else []
            await driver.submit([Envelope("x", name, b"1")])
            mine, its = Receipt.parse(await events.receipt("job-0")), Receipt.parse(await events.receipt("x"))
            # As after the restart of a server with a persistent queue, whose handles start again.
            canceller = other if runs else driver
            assert not await canceller.cancel(str(Receipt(mine.server, its.handle, mine.unique)))
            await consumer.settle(completed(running))
            async with serving(driver, [name]):
                assert {kind for kind, *_ in await events.ended("job-0", "x")} == {"completed"}

    run(scenario())


def test_a_running_job_is_not_cancelled(gearmand: Gearmand, name: str) -> None:
    async def scenario() -> None:
        async with driving(gearmand.url) as (driver, events):
            consumer = await driver.register([name], 1, _Silent())
            await driver.submit([Envelope("x", name, b"1")])
            deliveries = await take(consumer, 1)
            assert not await driver.cancel(await events.receipt("x"))
            await consumer.settle(completed(deliveries))
            assert await events.ended("x") == [("completed", b"1")]
            await consumer.close()

    run(scenario())


def test_the_depths_are_summed_over_all_servers(own_gearmand: StartGearmand) -> None:
    first, second = own_gearmand(), own_gearmand()

    async def scenario() -> None:
        url = f"gearman://127.0.0.1:{first.port},127.0.0.1:{second.port}"
        async with driving(url) as (driver, events):
            batch = jobs("f", 40)
            await driver.submit(batch)
            for envelope in batch:
                await events.receipt(envelope.id)
            consumer = await driver.register(["f"], 10, _Silent())
            deliveries = await take(consumer, 10)
            assert list(await driver.depths()) == [QueueDepth("f", queued=30, running=10, workers=2)]
            servers = {Receipt.parse(str(event[1])).server for event in events.all("accepted").values()}
            assert len(servers) == 2
            await consumer.settle(completed(deliveries))
            await consumer.close()

    run(scenario())


def test_equal_keys_meet_whatever_the_order_of_the_servers(own_gearmand: StartGearmand) -> None:
    hosts = [f"127.0.0.1:{own_gearmand().port}" for _ in range(3)]

    async def scenario() -> None:
        forward, backward = ("gearman://" + ",".join(order) for order in (hosts, hosts[::-1]))
        async with driving(forward) as (one, events), driving(backward) as (other, others):
            for number in range(100):
                await one.submit([Envelope(f"a{number}", "f", b"x", unique=f"key-{number}")])
                await other.submit([Envelope(f"b{number}", "f", b"x", unique=f"key-{number}")])
                assert await events.receipt(f"a{number}") == await others.receipt(f"b{number}")
            used = {Receipt.parse(str(event[1])).server for event in events.all("accepted").values()}
            assert used == set(hosts)

    run(scenario())


def test_64_mib_leave_and_arrive_with_bounded_memory(gearmand: Gearmand, name: str) -> None:
    size = 64 * 1024 * 1024

    async def scenario() -> None:
        async with driving(gearmand.url) as (driver, events):
            payload = bytes(size)
            tracemalloc.start()
            try:
                await driver.submit([Envelope("large", name, payload)])
                await events.receipt("large")
                sent = tracemalloc.get_traced_memory()[1]
                consumer = await driver.register([name], 1, _Silent())
                tracemalloc.reset_peak()
                (delivery,) = await take(consumer, 1)
                received = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
            assert sent < 4 * 1024 * 1024, "the payload leaves as views"
            assert received < 2.1 * size, "one receive buffer and one copy out of it"
            assert delivery.payload == payload
            await consumer.settle([(delivery, Completed(payload))])
            ((kind, result),) = await events.ended("large")
            assert kind == "completed"
            assert result == payload
            await consumer.close()

    run(scenario())


def test_a_job_that_nobody_answers_is_watched_no_longer_than_watch_timeout(gearmand: Gearmand, name: str) -> None:
    async def scenario() -> None:
        async with driving(f"{gearmand.url}?watch_timeout=0.4") as (driver, events):
            await driver.submit([Envelope("x", name, b"1")])
            ((kind, error),) = await events.ended("x")
            assert kind == "lost"
            assert "watch_timeout" in str(error)

    run(scenario())


def test_a_driver_that_is_not_connected_sends_nothing(gearmand: Gearmand) -> None:
    async def scenario() -> None:
        async with driving(gearmand.url) as (driver, _):
            pass
        with pytest.raises(NotSent):
            await driver.submit([Envelope("x", "f", b"1")])

    run(scenario())


def test_the_raw_machine_submits_reduce_jobs_that_the_server_understands(gearmand: Gearmand, function: bytes) -> None:
    from que.gearman.client import Client
    from tests.unit.test_gearman_client import Sink

    sink = Sink()
    client: Client[str] = Client(sink)
    leading = function, b"unique-%s" % function, b"reducer", b"0"
    client.submit("a", PacketType.SUBMIT_REDUCE_JOB, leading, b"da\0ta", watched=True)
    with Raw(gearmand.port) as raw, worker(gearmand.port, function) as other:
        raw.send_bytes(bytes(client.take()))
        kind, args = raw.receive()
        assert kind == 8
        kind, (handle, *rest) = other.ask(39)
        assert (kind, rest) == (40, [function, b"unique-%s" % function, b"reducer", b"da", b"ta"])
        assert args == [handle]
        other.send(WORK_FAIL, handle)
        other.barrier()


class _Silent:
    def lost(self, delivery: Delivery) -> None:
        raise AssertionError(f"lost {delivery}")

    def cancelled(self, delivery: Delivery) -> None:
        raise AssertionError(f"cancelled {delivery}")
