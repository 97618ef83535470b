"""The application: which backend a job goes to, connecting all or none of them, and whose job is whose."""

import asyncio
import math
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import cast

import pytest

import que
from que.options import CallOptions
from tests.unit.fakes import FakeDriver, url_of
from tests.unit.loops import in_loop, ticks, until

SECRET = "hunter2"
NAIVE = datetime(2030, 1, 1)  # noqa: DTZ001 - what a program may have by mistake


def echo(driver: str | None = None, name: str = "echo") -> que.Job[int, int]:
    return que.Job(name, int, int, driver=driver)


def drivers(count: int) -> list[FakeDriver]:
    return [FakeDriver() for _ in range(count)]


def app_of(*fakes: FakeDriver) -> que.Que[None]:
    return que.Que(*map(url_of, fakes))


def scheme_of(url: str) -> str:
    return url.removesuffix("://")


def with_secret(driver: FakeDriver) -> str:
    return f"{url_of(driver)}me:{SECRET}@host:1/?token={SECRET}"


async def handle(params: int) -> int:
    return params


# Which backend a job goes to.


@in_loop
async def test_a_job_goes_to_the_first_backend_unless_it_names_another() -> None:
    first, second, mail = drivers(3)
    urls = [url_of(each) for each in (first, second)]
    async with que.Que(*urls, mail=url_of(mail)) as app:
        jobs = [echo(), echo(scheme_of(urls[1])), echo("mail")]
        for job in jobs:
            app.add(job)
            await job.send(1)
        assert [len(each.envelopes) for each in (first, second, mail)] == [1, 1, 1]
        assert (await jobs[2].send(2)).backend == "mail"


@in_loop
async def test_a_backend_with_an_alias_answers_to_its_scheme_too_while_it_is_the_only_one() -> None:
    main, mail = drivers(2)
    url = url_of(mail)
    async with que.Que(url_of(main), mail=url) as app:
        await app.send(echo(scheme_of(url)), 1)
    assert (len(main.envelopes), len(mail.envelopes)) == (0, 1)


def test_a_scheme_of_several_backends_is_ambiguous() -> None:
    app = que.Que(one="memory://", two="memory://")
    with pytest.raises(que.ConfigurationError, match=r"job 'echo': 'memory' is the scheme of several .*: one, two"):
        app.add(echo("memory"))
    app.add(echo("two"))


def test_an_alias_is_the_nearer_name_than_a_scheme() -> None:
    que.Que("memory://", other="memory://").add(echo("memory"))


def test_a_driver_that_no_backend_has_is_refused() -> None:
    app = que.Que("memory://")
    with pytest.raises(que.ConfigurationError, match="job 'echo': 'mail' is none of this app's backends: memory"):
        app.add(echo("mail"))
    with pytest.raises(que.ConfigurationError, match="'mail' is none"):
        app.job("other", driver="mail")(handle)
    with pytest.raises(que.ConfigurationError, match="'mail' is none"):
        app.submit(echo("mail"), 1)


# What an app is made of.


def test_two_backends_of_one_name_are_refused_with_their_passwords_hidden() -> None:
    url = with_secret(FakeDriver())
    with pytest.raises(que.ConfigurationError, match="give one an alias") as caught:
        que.Que(url, url)
    assert SECRET not in str(caught.value)


def test_the_repr_of_an_app_hides_passwords() -> None:
    app = que.Que("memory://", mail=with_secret(FakeDriver()))
    assert "memory=memory://" in repr(app)
    assert "mail=" in repr(app)
    assert SECRET not in repr(app)


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("memry://", que.UnknownDriver),
        ("no url", que.InvalidName),
        ("memory://somewhere", que.ConfigurationError),
        ("memory://?size=1", que.ConfigurationError),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_when_the_app_is_made(url: str, error: type[que.QueError]) -> None:
    with pytest.raises(error):
        que.Que(url)


@pytest.mark.parametrize("count", [0, -1, cast(int, 1.5), cast(int, None)])
def test_an_app_that_could_never_submit_is_refused(count: int) -> None:
    with pytest.raises(que.ConfigurationError, match=f"max_unsent={count}: expected a count of at least 1"):
        que.Que("memory://", max_unsent=count)


@pytest.mark.parametrize("seconds", [0, -1, math.nan, math.inf, cast(float, "5")])
def test_a_watch_that_could_never_be_kept_is_refused(seconds: float) -> None:
    with pytest.raises(que.ConfigurationError, match=r"watch_timeout=.*: expected more than 0 seconds, or None"):
        que.Que("memory://", watch_timeout=seconds)


def test_without_a_url_the_environment_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    url = url_of(FakeDriver())
    monkeypatch.setenv("QUE_URL", url)
    assert url in repr(que.Que())
    assert url not in repr(que.Que("memory://"))
    assert url not in repr(que.Que(only="memory://"))
    monkeypatch.delenv("QUE_URL")
    assert repr(que.Que()) == "<Que memory=memory://>"


def test_making_an_app_opens_nothing() -> None:
    driver = FakeDriver()
    app_of(driver).add(echo())
    assert driver.calls == []


# Connecting all or none.


@in_loop
async def test_all_backends_are_connected_at_once() -> None:
    first, second = drivers(2)
    app = app_of(first, second)
    first.gate.clear()
    second.gate.clear()
    connecting = asyncio.create_task(app.connect())
    await until(lambda: first.calls and second.calls)
    assert not connecting.done()
    first.gate.set()
    second.gate.set()
    await connecting
    assert [each.connected for each in (first, second)] == [True, True]
    await app.disconnect()
    assert [each.connected for each in (first, second)] == [False, False]


@pytest.mark.parametrize("kind", [OSError, que.ProtocolError, asyncio.CancelledError])
@pytest.mark.parametrize("closes", [True, False], ids=["closes", "cannot close"])
@in_loop
async def test_any_error_of_connecting_names_the_backend_without_its_password_and_closes_the_others(
    kind: type[BaseException], closes: bool, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = drivers(2)
    bad.connect_error = kind("why")
    good.disconnect_error = bad.disconnect_error = None if closes else OSError("cannot close")
    app = que.Que(url_of(good), mail=with_secret(bad))
    with pytest.raises(que.ConnectError) as caught:
        await app.connect()
    assert caught.value.backend.endswith("://me:***@host:1/?token=***")
    assert kind.__name__ in caught.value.reason
    assert isinstance(caught.value.__cause__, kind)
    assert SECRET not in str(caught.value)
    assert SECRET not in caplog.text
    assert ("closing what had been connected failed" in caplog.text) is not closes
    assert good.calls == bad.calls == ["connect", "disconnect"]
    with pytest.raises(que.NotConnected):
        app.submit(echo(), 1)


@pytest.mark.parametrize(
    "error", [que.ConnectError("fake://", "nobody is there"), que.UnsupportedFeature("fake", "TLS", "leave it out")]
)
@in_loop
async def test_an_error_that_says_what_to_do_is_raised_as_it_is(error: que.QueError) -> None:
    driver = FakeDriver()
    driver.connect_error = error
    with pytest.raises(type(error)) as caught:
        await app_of(driver).connect()
    assert caught.value is error


@in_loop
async def test_of_several_backends_that_cannot_be_reached_each_is_named() -> None:
    first, good, second = drivers(3)
    first.connect_error, second.connect_error = OSError("no route"), que.ConnectError("mail://", "no answer")
    url = url_of(first)
    app = que.Que(first=url, good=url_of(good), second=url_of(second))
    with pytest.raises(que.ConnectError) as caught:
        await app.connect()
    assert caught.value.backend == f"{url} and mail://"
    assert caught.value.reason == "OSError('no route'); no answer"
    assert good.calls == ["connect", "disconnect"]


@in_loop
async def test_an_app_that_could_not_connect_may_try_again() -> None:
    driver = FakeDriver()
    driver.connect_error = OSError("connection refused")
    app = app_of(driver)
    with pytest.raises(que.ConnectError):
        await app.connect()
    driver.connect_error = None
    async with app:
        await app.send(echo(), 1)


@in_loop
async def test_a_cancelled_connect_closes_what_was_connected_and_may_be_tried_again() -> None:
    quick, slow = drivers(2)
    app = app_of(quick, slow)
    slow.gate.clear()
    connecting = asyncio.create_task(app.connect())
    await until(lambda: quick.connected and slow.calls)
    connecting.cancel()
    await asyncio.wait([connecting])
    assert connecting.cancelled()
    assert quick.calls == slow.calls == ["connect", "disconnect"]
    slow.gate.set()
    async with app:
        await app.send(echo(), 1)


@in_loop
async def test_a_second_connect_is_refused_at_every_stage_and_leaves_the_first_alone() -> None:
    driver = FakeDriver()
    app = app_of(driver)
    driver.gate.clear()
    connecting = asyncio.create_task(app.connect())
    await until(lambda: driver.calls)
    with pytest.raises(que.ConfigurationError, match="this app is being connected"):
        await app.connect()
    with pytest.raises(que.ConfigurationError, match="this app is being connected: cancel that"):
        await app.disconnect()
    driver.gate.set()
    await connecting
    with pytest.raises(que.ConfigurationError, match="this app is connected already"):
        await app.connect()
    await app.send(echo(), 1)
    driver.gate.clear()
    app.send(echo(), 2)
    disconnecting = asyncio.create_task(app.disconnect())
    await until(lambda: len(driver.envelopes) == 2)
    with pytest.raises(que.ConfigurationError, match="this app is being disconnected"):
        await app.connect()
    driver.gate.set()
    await disconnecting
    assert driver.calls == ["connect", "disconnect"]
    async with app:
        await app.send(echo(), 3)


# Disconnecting.


@in_loop
async def test_disconnecting_twice_is_harmless_and_the_second_call_waits_for_the_first() -> None:
    driver = FakeDriver()
    app = app_of(driver)
    await app.connect()
    driver.gate.clear()
    sending = app.send(echo(), 1)
    first, second, leaving = (asyncio.create_task(app.disconnect()) for _ in range(3))
    await until(lambda: driver.batches)
    leaving.cancel()
    await ticks()
    assert leaving.cancelled()
    assert not first.done()
    assert not second.done()
    driver.gate.set()
    await asyncio.gather(first, second)
    assert (await sending).reference == f"receipt of {sending.id}"
    await app.disconnect()
    assert driver.calls.count("connect") == 1
    assert not driver.connected


@in_loop
async def test_disconnecting_what_was_never_connected_is_harmless() -> None:
    await que.Que("memory://").disconnect()


@in_loop
async def test_an_error_of_one_backends_disconnection_leaves_none_of_the_others_open() -> None:
    bad, good = drivers(2)
    bad.disconnect_error = OSError("cannot close")
    app = app_of(bad, good)
    await app.connect()
    with pytest.raises(OSError, match="cannot close"):
        await app.disconnect()
    assert not good.connected
    with pytest.raises(que.NotConnected):
        app.submit(echo(), 1)


@in_loop
async def test_another_running_loop_may_not_disconnect() -> None:
    driver = FakeDriver()
    app = app_of(driver)

    def elsewhere() -> None:
        asyncio.run(app.disconnect())

    async with app:
        with pytest.raises(que.WrongLoop, match="this app was connected in another event loop: disconnect it there"):
            await asyncio.to_thread(elsewhere)
        await app.send(echo(), 1)


def test_an_app_outlives_the_loop_that_it_was_connected_in() -> None:
    driver = FakeDriver()
    app = app_of(driver)
    asyncio.run(app.connect())

    async def again() -> None:
        await app.disconnect()
        async with app:
            await app.send(echo(), 1)

    asyncio.run(again())
    assert driver.calls == ["connect", "disconnect"] * 2


@in_loop
async def test_a_disconnection_that_is_cancelled_while_workers_stop_leaves_nobody_waiting() -> None:
    app = que.Que("memory://")
    cancelled, let_go = asyncio.Event(), asyncio.Event()

    @app.job("stubborn")
    async def stubborn(params: int) -> int:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            await let_go.wait()
            raise
        return params

    await app.connect()
    worker = app.worker()
    working = asyncio.create_task(worker.run())
    promise = stubborn.submit(1)
    await until(lambda: worker.is_running and promise.is_accepted)
    await ticks(20)
    disconnecting = asyncio.create_task(app.disconnect())
    await cancelled.wait()
    disconnecting.cancel()
    await asyncio.wait([disconnecting])
    assert isinstance(promise.error, que.ConnectionLost)
    let_go.set()
    await asyncio.wait([working])


# Whose job is whose.


def test_a_name_is_taken_once_per_backend_and_adding_a_job_again_is_harmless() -> None:
    app = que.Que("memory://", other="memory://")
    job = echo()
    assert app.add(job) is app.add(job) is job
    with pytest.raises(que.ConfigurationError, match="this app has a job 'echo' already"):
        app.add(echo())
    with pytest.raises(que.ConfigurationError, match="this app has a job 'echo' already"):
        app.job("echo")(handle)
    app.add(echo("other"))


def test_a_job_belongs_to_one_app() -> None:
    job = echo()
    que.Que("memory://").add(job)
    other = que.Que("memory://")
    with pytest.raises(que.ConfigurationError, match="job 'echo' already belongs to another app"):
        other.add(job)
    calls: list[Callable[[], object]] = [
        lambda: other.submit(job, 1),
        lambda: other.send(job, 1),
        lambda: other.submit_many(job, [1]),
        lambda: other.map(job, [1]),
    ]
    for call in calls:
        with pytest.raises(que.ConfigurationError, match="job 'echo' belongs to another app"):
            call()
    other.add(echo())


def test_a_job_that_could_not_be_bound_belongs_to_nobody() -> None:
    job = que.Job("echo", int, int, priority=que.Priority.HIGH)
    with pytest.raises(que.UnsupportedFeature, match="has no priorities"):
        app_of(FakeDriver()).add(job)
    with pytest.raises(que.NotBound):
        job.submit(1)
    que.Que("memory://").add(job)


@in_loop
async def test_an_unbound_job_goes_through_its_app_by_every_verb() -> None:
    job = echo()
    async with que.Que("memory://") as app:
        worked = app.add(echo(name="worked"))
        worked.handler(handle)
        async with app.worker():
            assert await app.submit(worked, 1) == 1
        assert (await app.send(job, 2)).job == "echo"
        assert len(app.submit_many(job, [3, 4])) == 2
        assert (await app.send_many(job, [5, 6])).accepted == 2


def test_a_worker_of_nothing_is_refused() -> None:
    app = que.Que("memory://")
    app.add(echo())
    with pytest.raises(que.ConfigurationError, match=r"no job of this app has a handler"):
        app.worker()
    with pytest.raises(que.ConfigurationError, match=r"no job of this app has a handler"):
        asyncio.run(app.work())


@in_loop
async def test_work_connects_and_disconnects_an_app_that_is_not_connected() -> None:
    driver = FakeDriver()
    app = app_of(driver)
    app.job("echo")(handle)
    working = asyncio.create_task(app.work())
    await until(lambda: driver.consumers)
    working.cancel()
    await asyncio.wait([working])
    assert driver.calls == ["connect", "disconnect"]


@in_loop
async def test_work_leaves_an_app_that_is_connected_as_it_is() -> None:
    driver = FakeDriver()
    app = app_of(driver)
    app.job("echo")(handle)
    async with app:
        working = asyncio.create_task(app.work())
        await until(lambda: driver.consumers)
        working.cancel()
        await asyncio.wait([working])
        assert driver.calls == ["connect"]


@in_loop
async def test_a_receipt_of_no_backend_of_this_app_says_which_there_are() -> None:
    receipt = que.Receipt("mail", "echo", "1", "H:1")
    async with que.Que("memory://") as app:
        for ask in (app.status, app.cancel):
            with pytest.raises(que.ConfigurationError, match="no backend is called 'mail'; this app has memory"):
                await ask(receipt)


# Many jobs.


@in_loop
async def test_submit_many_is_one_batch_in_the_order_of_the_items() -> None:
    driver = FakeDriver()
    async with app_of(driver) as app:
        handles = app.submit_many(echo(), iter(range(5)))
        await app.drain()
    assert [each.id for each in handles] == [each.id for each in driver.batches[0]]
    assert [each.payload for each in driver.batches[0]] == [b"0", b"1", b"2", b"3", b"4"]


def broken() -> Iterator[int]:
    yield 1
    raise LookupError("no more")


@pytest.mark.parametrize(
    ("items", "error"),
    [
        pytest.param(lambda: [1, cast(int, "two")], que.ParamsInvalid, id="params"),
        pytest.param(lambda: range(4), que.Overloaded, id="too many"),
        pytest.param(broken, LookupError, id="the items"),
    ],
)
@in_loop
async def test_submit_many_sends_all_or_none(items: Callable[[], Iterable[int]], error: type[Exception]) -> None:
    driver = FakeDriver()
    async with que.Que(url_of(driver), max_unsent=3) as app:
        job = app.add(echo())
        with pytest.raises(error):
            job.submit_many(items())
        with pytest.raises(error):
            app.submit_many(job, items())
        await app.drain()
        assert driver.batches == []
        assert len(job.submit_many(range(3))) == 3


@in_loop
async def test_every_backend_is_drained() -> None:
    first, second = drivers(2)
    async with que.Que(url_of(first), other=url_of(second)) as app:
        for driver in (first, second):
            driver.gate.clear()
        app.submit(echo(), 1)
        app.submit(echo("other"), 2)
        draining = asyncio.create_task(app.drain())
        await until(lambda: first.batches and second.batches)
        first.gate.set()
        await ticks(10)
        assert not draining.done()
        second.gate.set()
        await draining


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        pytest.param(CallOptions(at=NAIVE), r"at=datetime.*: expected a datetime with a time zone", id="naive"),
        pytest.param(CallOptions(at=datetime(2030, 1, 1, tzinfo=UTC), delay=1), "exclude each other", id="both"),
        pytest.param(CallOptions(delay=-1), "delay=-1: expected seconds", id="negative"),
        pytest.param(CallOptions(expires=math.inf), "expires=inf: expected seconds", id="endless"),
    ],
)
@in_loop
async def test_an_option_that_cannot_be_meant_is_refused_at_the_call(options: CallOptions, reason: str) -> None:
    async with que.Que("memory://") as app:
        job = app.add(echo())
        calls: list[Callable[[], object]] = [
            lambda: job.submit(1, **options),
            lambda: job.send(1, **options),
            lambda: app.submit(job, 1, **options),
            lambda: app.send(job, 1, **options),
        ]
        for call in calls:
            with pytest.raises(que.ConfigurationError, match=reason):
                call()
