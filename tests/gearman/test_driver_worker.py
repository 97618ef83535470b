"""The working side of the Gearman driver against a real gearmand."""

import asyncio
import time
from collections import Counter

import pytest

from que.driver import Cancels, Driver, Emits, Inspects
from que.drivers.gearman.admin import GearmanAdmin
from que.errors import ConfigurationError, InvalidName, NotConnected, UnsupportedFeature
from que.gearman.packets import PacketType
from que.model import Completed, Delivery, Envelope, Failed, Priority, Redeliver, Released, Settled, Settlement, Verdict
from tests.gearman.driving import Notices, completed, driving, echo, eventually, jobs, run, serving, take, until
from tests.gearman.proxy import proxying
from tests.gearman.raw import GRAB_JOB_UNIQ, SUBMIT_JOB, Raw, worker
from tests.servers import Gearmand, StartGearmand

P = PacketType


@pytest.fixture
def name(function: bytes) -> str:
    """A function of this test's own, on the shared server."""
    return function.decode()


def test_the_driver_keeps_the_contract(gearmand: Gearmand, name: str) -> None:
    async def scenario() -> None:
        async with driving(gearmand.url) as (driver, _), serving(driver, [name]) as served:
            contract: Driver = driver
            assert contract.calls_in_flight is None
            assert isinstance(driver, Cancels)
            assert isinstance(driver, Inspects)
            assert isinstance(served.consumer, Emits)

    run(scenario())


@pytest.mark.parametrize("slots", [1, 3, 7])
def test_no_more_jobs_than_slots_ever_run(own_gearmand: StartGearmand, slots: int) -> None:
    server = own_gearmand()

    async def slow(delivery: Delivery) -> Verdict:
        await asyncio.sleep(0.002)
        return Completed(b"")

    async def scenario() -> None:
        most = 0
        async with driving(server.url) as (driver, events), GearmanAdmin(*server.address) as admin:
            batch = jobs("f", 300)
            await driver.submit(batch)
            async with serving(driver, ["f"], slots, slow) as served:
                while len(events.all("completed")) < len(batch):
                    most = max(most, *(row.running for row in await admin.status()))
            assert 0 < most <= slots
            assert len({delivery.id for delivery in served.deliveries}) == 300

    run(scenario())


def test_the_slots_are_one_limit_for_all_servers(own_gearmand: StartGearmand) -> None:
    servers = own_gearmand(), own_gearmand()

    async def scenario() -> None:
        url = f"gearman://127.0.0.1:{servers[0].port},127.0.0.1:{servers[1].port}"
        async with driving(url) as (driver, events):
            batch = jobs("f", 60)
            await driver.submit(batch)
            await until(lambda: len(events.all("accepted")) == 60, "all to be queued")
            consumer = await driver.register(["f"], 7, Notices())
            held = await take(consumer, 7)
            for _ in range(20):
                waiting = asyncio.create_task(consumer.reserve(7))
                # One server may hear of a job's end after the other has given out the next.
                async with asyncio.timeout(20):
                    while sum(depth.running for depth in await driver.depths()) != 7:
                        pass
                assert not waiting.done()
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)
                await consumer.settle(completed([held.pop(0)]))
                held += await take(consumer, 1)
            await consumer.settle(completed(held))
            await consumer.close()

    run(scenario())


def test_a_worker_asks_for_no_more_than_its_caller_wants(gearmand: Gearmand, name: str) -> None:
    async def scenario() -> None:
        async with (
            driving(gearmand.url) as (client, events),
            proxying(gearmand.port) as proxy,
            driving(f"gearman://127.0.0.1:{proxy.port}") as (driver, _),
        ):
            batch = jobs(name, 60)
            await client.submit(batch)
            await events.receipt("job-59")
            consumer = await driver.register([name], 10, Notices())

            def grabs() -> int:
                return sum(kind is P.GRAB_JOB_UNIQ for kind in proxy.packets())

            held = await take(consumer, 10)
            assert grabs() == 10
            nothing = asyncio.create_task(consumer.reserve(5))
            # A question and its answer pass on the driver's other connection meanwhile.
            await driver.status(f"127.0.0.1:{proxy.port}/H:x:1/x")
            assert not nothing.done(), "all slots are taken"
            nothing.cancel()
            await asyncio.gather(nothing, return_exceptions=True)
            await consumer.settle(completed(held))
            await events.ended(*(delivery.id for delivery in held))
            assert grabs() == 10, "nobody waits for more"
            more = await consumer.reserve(1)
            assert (len(more), grabs()) == (1, 11)
            await consumer.settle(completed(more))
            await consumer.close()

    run(scenario())


def test_verdicts_leave_together_with_the_grabs_that_they_make_room_for(gearmand: Gearmand, name: str) -> None:
    async def scenario() -> None:
        async with (
            driving(gearmand.url) as (client, events),
            proxying(gearmand.port) as proxy,
            driving(f"gearman://127.0.0.1:{proxy.port}") as (driver, _),
        ):
            await client.submit(jobs(name, 30))
            await events.receipt("job-29")
            consumer = await driver.register([name], 10, Notices())
            held = await take(consumer, 10)
            waiting = asyncio.create_task(consumer.reserve(10))
            await asyncio.sleep(0)
            await consumer.settle(completed(held))
            held = list(await waiting)
            together = [P.WORK_COMPLETE] * 10 + [P.GRAB_JOB_UNIQ] * 10
            assert proxy.packets()[-20:] == together
            assert together in [[kind for kind, _ in burst] for burst in proxy.bursts]
            await consumer.settle(completed(held))
            await consumer.close()

    run(scenario())


def test_each_job_gets_one_terminal_packet_and_the_connection_a_clean_end(gearmand: Gearmand, name: str) -> None:
    async def handler(delivery: Delivery) -> Verdict:
        return Failed("handler", "E", "no") if delivery.payload == b"payload-3" else Completed(b"")

    async def scenario() -> None:
        async with proxying(gearmand.port) as proxy:
            async with (
                driving(f"gearman://127.0.0.1:{proxy.port}?client_id=me") as (driver, events),
                serving(driver, [name], 4, handler),
            ):
                await driver.submit(jobs(name, 10))
                await events.ended(*(f"job-{number}" for number in range(10)))
            (packets,) = [record for record in proxy.sent if record[0][0] is P.SET_CLIENT_ID]
            kinds = [kind for kind, _ in packets]
            assert packets[:2] == [(P.SET_CLIENT_ID, (b"me",)), (P.CAN_DO, (name.encode(),))]
            assert packets[-2] == (P.CANT_DO, (name.encode(),))
            assert kinds[-1] is P.ECHO_REQ
            ends = Counter(args[0] for kind, args in packets if kind in (P.WORK_COMPLETE, P.WORK_FAIL))
            assert len(ends) == 10
            assert set(ends.values()) == {1}
            allowed = {
                P.SET_CLIENT_ID, P.CAN_DO, P.CANT_DO, P.GRAB_JOB_UNIQ, P.PRE_SLEEP, P.WORK_COMPLETE, P.WORK_WARNING,
                P.WORK_FAIL, P.ECHO_REQ,
            }  # fmt: skip
            assert set(kinds) <= allowed

    run(scenario())


def test_a_low_job_behind_a_waiting_epoch_job_does_not_make_the_worker_spin(gearmand: Gearmand, name: str) -> None:
    async def scenario() -> None:
        async with (
            proxying(gearmand.port) as proxy,
            driving(f"gearman://127.0.0.1:{proxy.port}") as (driver, events),
            serving(driver, [name]) as served,
        ):
            await driver.submit([Envelope("later", name, b"x", background=True, due=time.time() + 1.5)])
            await driver.submit([Envelope("low", name, b"x", priority=Priority.LOW)])
            await events.ended("low")
            assert len(served.deliveries) == 2
            grabs = [kind for kind in proxy.packets() if kind is P.GRAB_JOB_UNIQ]
            assert len(grabs) < 300, "gearmand alone would make it thousands"

    run(scenario())


def test_an_idle_worker_wakes_for_a_job_that_comes(gearmand: Gearmand, name: str) -> None:
    async def scenario() -> None:
        async with (
            proxying(gearmand.port) as proxy,
            driving(f"gearman://127.0.0.1:{proxy.port}") as (driver, events),
            serving(driver, [name]) as served,
        ):
            for number in range(5):
                await until(lambda: proxy.packets()[-1:] == [P.PRE_SLEEP], "the worker to sleep")
                await driver.submit([Envelope(f"j{number}", name, b"x")])
                await events.ended(f"j{number}")
            assert len(served.deliveries) == 5

    run(scenario())


def test_a_foreign_jobs_id_is_its_handle_where_it_has_no_unique(gearmand: Gearmand, name: str) -> None:
    async def scenario() -> None:
        async with driving(gearmand.url) as (driver, _), serving(driver, [name]) as served:
            with Raw(gearmand.port) as raw:
                handle = await asyncio.to_thread(raw.submit, SUBMIT_JOB, name.encode(), b"", b"data")
                await until(lambda: served.deliveries, "the job")
            assert served.deliveries[0].id == handle.decode()

    run(scenario())


def test_progress_beyond_what_the_server_holds_keeps_the_connection(gearmand: Gearmand, name: str) -> None:
    async def scenario() -> None:
        async with driving(gearmand.url) as (driver, events):

            async def handler(delivery: Delivery) -> Verdict:
                served.consumer.progress(delivery, -1, 10**15)
                return Completed(b"done")

            async with serving(driver, [name], handler=handler) as served:
                await driver.submit([Envelope("x", name, b"1")])
                assert await events.ended("x") == [("completed", b"done")]
            assert events.of["x"][1] == ("progress", 0, 2**31 - 1)

    run(scenario())


def test_what_is_said_of_a_settled_job_is_not_sent(gearmand: Gearmand, name: str) -> None:
    async def scenario() -> None:
        async with driving(gearmand.url) as (driver, events):
            consumer = await driver.register([name], 2, Notices())
            await driver.submit(jobs(name, 1))
            (delivery,) = await take(consumer, 1)
            assert await consumer.settle([(delivery, Completed(b"1"))]) == [Settled.CONFIRMED]
            consumer.progress(delivery, 1, 2)
            consumer.chunk(delivery, b"late")
            consumer.warned(delivery, "late")
            assert await consumer.settle([(delivery, Completed(b"2"))]) == [Settled.LOST]
            assert await events.ended("job-0") == [("completed", b"1")]
            await driver.submit(jobs(name, 1, "next"))
            (other,) = await take(consumer, 1)
            await consumer.settle(completed([other]))
            await consumer.close()
            assert [event[0] for event in events.of["job-0"]] == ["accepted", "completed"]

    run(scenario())


def test_a_result_that_no_packet_can_carry_fails_its_job(gearmand: Gearmand, name: str) -> None:
    async def big(delivery: Delivery) -> Verdict:
        return Completed(b"x" * 1001)

    async def scenario() -> None:
        async with (
            driving(gearmand.url) as (client, events),
            driving(f"{gearmand.url}?max_payload=1000") as (driver, _),
            serving(driver, [name], handler=big) as served,
        ):
            await client.submit(jobs(name, 1))
            ((kind, failure),) = await events.ended("job-0")
            assert kind == "failed"
            assert isinstance(failure, Failed)
            assert failure.kind == "result"
            assert "max_payload" in failure.message
            assert served.settled == [Settled.CONFIRMED]

    run(scenario())


def test_a_reason_that_no_packet_can_carry_is_left_out_and_the_job_still_fails(gearmand: Gearmand, name: str) -> None:
    async def fail(delivery: Delivery) -> Verdict:
        return Failed("handler", "ValueError", "m" * 1001)

    async def scenario() -> None:
        async with (
            driving(f"{gearmand.url}?max_payload=1000") as (driver, events),
            serving(driver, [name], handler=fail) as served,
        ):
            await driver.submit(jobs(name, 1))
            assert await events.ended("job-0") == [("failed", Failed("handler", "", ""))]
            assert served.settled == [Settled.CONFIRMED]

    run(scenario())


def test_redelivery_is_refused_and_keeps_nobody_elses_verdict(gearmand: Gearmand, name: str) -> None:
    async def scenario() -> None:
        async with driving(gearmand.url) as (driver, events):
            consumer = await driver.register([name], 2, Notices())
            await driver.submit(jobs(name, 2))
            again, done = await take(consumer, 2)
            with pytest.raises(UnsupportedFeature, match="redelivery"):
                await consumer.settle([(again, Redeliver(1.0)), (done, Completed(b"done"))])
            assert await events.ended(done.id) == [("completed", b"done")]
            assert await consumer.settle([(again, Failed("handler", "E", "no"))]) == [Settled.CONFIRMED]
            await events.ended(again.id)
            await consumer.close()

    run(scenario())


def test_a_released_job_goes_to_another_once_nothing_else_runs_on_its_connection(gearmand: Gearmand, name: str) -> None:
    async def scenario() -> None:
        notices = Notices()
        async with driving(gearmand.url) as (driver, events):
            consumer = await driver.register([name], 3, notices)
            await driver.submit(jobs(name, 3))
            released, slow, other = await take(consumer, 3)
            verdicts: list[Settlement] = [(released, Released()), (other, Completed(b"other"))]
            assert await consumer.settle(verdicts) == [Settled.CONFIRMED] * 2
            assert await events.ended(other.id) == [("completed", b"other")]
            assert not await asyncio.to_thread(_can_grab, gearmand.port, name), "the connection still stands"
            assert await consumer.settle([(slow, Completed(b"slow"))]) == [Settled.CONFIRMED]
            assert await events.ended(slow.id) == [("completed", b"slow")]
            (again,) = await take(consumer, 1)
            assert again.id == released.id
            await consumer.settle([(again, Completed(b"again"))])
            assert await events.ended(released.id) == [("completed", b"again")]
            assert notices.losses == []
            await consumer.close()

    run(scenario())


def test_a_released_job_does_not_wait_for_what_nobody_has_taken_yet(gearmand: Gearmand, name: str) -> None:
    async def scenario() -> None:
        async with driving(f"{gearmand.url}?heartbeat=600&deadline=600") as (driver, events):
            consumer = await driver.register([name], 3, Notices())
            await driver.submit(jobs(name, 3))
            await events.receipt("job-2")
            held = await consumer.reserve(3)
            await until(lambda: consumer.buffered == 3 - len(held) > 0, "more to arrive than was taken")
            await consumer.settle([(delivery, Released()) for delivery in held])
            async with driving(gearmand.url) as (other, _), serving(other, [name]):
                await events.ended("job-0", "job-1", "job-2")
            await consumer.close()

    run(scenario())


def _can_grab(port: int, name: str) -> bool:
    with worker(port, name.encode()) as raw:
        return raw.ask(GRAB_JOB_UNIQ).kind != P.NO_JOB


def test_a_closed_consumer_returns_nothing_settles_what_runs_and_then_leaves(own_gearmand: StartGearmand) -> None:
    server = own_gearmand()

    async def scenario() -> None:
        async with driving(server.url) as (driver, events), GearmanAdmin(*server.address) as admin:
            consumer = await driver.register(["f"], 2, Notices())
            await driver.submit(jobs("f", 1))
            deliveries = await take(consumer, 1)
            waiting = asyncio.create_task(consumer.reserve(1))
            await asyncio.sleep(0)
            await consumer.close()
            await consumer.close()
            assert await waiting == ()
            assert await consumer.reserve(1) == ()
            assert [row.workers for row in await admin.status()] == [1], "it stays while its job runs"
            assert await consumer.settle(completed(deliveries)) == [Settled.CONFIRMED]
            await events.ended("job-0")

            async def left() -> bool:
                return not any(row.functions for row in await admin.workers())

            await eventually(left, "the worker to leave")
            assert consumer.finished
            await until(
                lambda: not [task for task in asyncio.all_tasks() if task.get_name().startswith("que worker")],
                "its tasks to end",
            )

    run(scenario())


def test_a_close_gives_back_what_nobody_had_reserved_yet(gearmand: Gearmand, name: str) -> None:
    async def scenario() -> None:
        notices = Notices()
        async with driving(gearmand.url) as (driver, events):
            for _ in range(10):
                consumer = await driver.register([name], 8, notices)
                waiting = asyncio.create_task(consumer.reserve(8))
                await driver.submit(jobs(name, 8))
                # The jobs come while nobody takes them: the task that reserved is cancelled before it could.
                await asyncio.sleep(0)
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)
                await consumer.close()
                async with serving(driver, [name]):
                    await events.ended(*(f"job-{number}" for number in range(8)))
                events.of.clear()
        assert notices.losses == [], "nobody had been given these jobs"

    run(scenario())


def test_a_cancelled_reserve_loses_nothing_wherever_it_stands(gearmand: Gearmand, name: str) -> None:
    async def scenario() -> None:
        async with driving(gearmand.url) as (driver, events):
            consumer = await driver.register([name], 5, Notices())
            batch = jobs(name, 120)
            await driver.submit(batch)
            seen: list[str] = []
            turn = 0
            while len(seen) < len(batch):
                task = asyncio.create_task(consumer.reserve(5))
                for _ in range(turn % 40):
                    await asyncio.sleep(0)
                turn += 1
                task.cancel()
                try:
                    deliveries = await task
                except asyncio.CancelledError:
                    continue
                seen += [delivery.id for delivery in deliveries]
                await consumer.settle(completed(deliveries))
            assert sorted(seen) == sorted(envelope.id for envelope in batch)
            await events.ended(*(envelope.id for envelope in batch))
            await consumer.close()

    run(scenario())


def test_a_busy_server_cannot_starve_another(own_gearmand: StartGearmand) -> None:
    servers = own_gearmand(), own_gearmand()

    async def scenario() -> None:
        url = f"gearman://127.0.0.1:{servers[0].port},127.0.0.1:{servers[1].port}"
        async with driving(servers[0].url) as (busy, most), driving(servers[1].url) as (calm, few):
            await busy.submit(jobs("f", 300, "busy"))
            await most.receipt("busy-299")
            await calm.submit(jobs("f", 3, "calm"))
            async with driving(url) as (driver, _), serving(driver, ["f"], 1) as served:
                await few.ended("calm-0", "calm-1", "calm-2")
                served_before = len(served.deliveries)
            assert served_before < 50

    run(scenario())


@pytest.mark.parametrize(
    ("functions", "slots", "error"),
    [(["a b"], 1, InvalidName), ([], 1, ConfigurationError), (["f"], 0, ConfigurationError)],
    ids=["a blank in a name", "no function", "no slot"],
)
def test_a_consumer_that_cannot_be_is_refused(
    gearmand: Gearmand, functions: list[str], slots: int, error: type[Exception]
) -> None:
    async def scenario() -> None:
        async with driving(gearmand.url) as (driver, _):
            with pytest.raises(error):
                await driver.register(functions, slots, Notices())
        with pytest.raises(NotConnected):
            await driver.register(["f"], 1, Notices())

    run(scenario())


def test_results_of_many_mib_cross_many_small_ones(gearmand: Gearmand, name: str) -> None:
    async def handler(delivery: Delivery) -> Verdict:
        return Completed(delivery.payload * (4 * 1024 * 1024 if delivery.payload == b"L" else 1))

    async def scenario() -> None:
        async with driving(gearmand.url) as (driver, events), serving(driver, [name], 20, handler) as served:
            batch = [Envelope(f"j{number}", name, b"L" if number % 10 == 0 else b"%d" % number) for number in range(60)]
            await driver.submit(batch)
            ends = await events.ended(*(envelope.id for envelope in batch))
            for envelope, (kind, payload) in zip(batch, ends, strict=True):
                assert kind == "completed"
                assert isinstance(payload, bytes)
                assert payload == envelope.payload * (len(payload) // len(envelope.payload))
            assert set(served.settled) == {Settled.CONFIRMED}

    run(scenario())


def test_several_functions_are_served_on_one_connection(gearmand: Gearmand, name: str) -> None:
    async def scenario() -> None:
        names = [f"{name}-{letter}" for letter in "abc"]
        async with driving(gearmand.url) as (driver, events), serving(driver, names, handler=echo) as served:
            await driver.submit([Envelope(function, function, function.encode()) for function in names])
            await events.ended(*names)
            assert sorted(delivery.function for delivery in served.deliveries) == names

    run(scenario())


def test_with_job_retries_a_job_that_kills_its_workers_fails_and_leaves_the_rest_alone(
    own_gearmand: StartGearmand,
) -> None:
    server = own_gearmand("--job-retries=2")

    async def scenario() -> None:
        async with driving(server.url) as (client, events):
            await client.submit(jobs("poison", 1))
            for _ in range(2):
                # A worker's process that dies closes its connection with the job in hand.
                async with driving(server.url) as (driver, _):
                    await take(await driver.register(["poison", "f"], 1, Notices()), 1)
            await until(lambda: events.all("failed"), "the job to fail")
            async with serving(client, ["poison", "f"]) as served:
                await client.submit(jobs("f", 1))
                await until(lambda: events.all("completed"), "the next job to end")
                assert [delivery.function for delivery in served.deliveries] == ["f"]

    run(scenario())
