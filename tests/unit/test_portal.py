"""From any thread into one event loop: the portal, its waiters, and its end."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from que.errors import NotConnected, WrongLoop
from que.portal import Portal, Waiter

WAIT_SECONDS = 20.0


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop that runs in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture
def portal(loop: asyncio.AbstractEventLoop) -> Portal:
    return Portal(loop)


def in_loop(loop: asyncio.AbstractEventLoop, portal: Portal, *, end: bool) -> None:
    async def close() -> None:
        await portal.stop()
        if end:
            portal.end()

    asyncio.run_coroutine_threadsafe(close(), loop).result(WAIT_SECONDS)


def test_posted_calls_run_in_the_loops_thread_in_the_order_of_their_posting(portal: Portal) -> None:
    seen: list[tuple[int, int]] = []
    waiter = Waiter()

    def see(number: int) -> None:
        seen.append((number, threading.get_ident()))

    for number in range(500):
        portal.post(partial(see, number))
    portal.post(waiter.wake)
    assert portal.wait(waiter, WAIT_SECONDS)
    assert [number for number, _ in seen] == list(range(500))
    assert threading.get_ident() not in {thread for _, thread in seen}


def test_what_is_posted_before_the_loop_looks_costs_one_wake_up(
    loop: asyncio.AbstractEventLoop, portal: Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    wake_ups: list[object] = []
    wake = loop.call_soon_threadsafe

    def counted(callback: Callable[[], object]) -> asyncio.Handle:
        wake_ups.append(callback)
        return wake(callback)

    gate, posted = threading.Event(), Waiter()
    wake(gate.wait)  # the loop is busy until all is posted
    monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
    for _ in range(100):
        portal.post(lambda: None)
    portal.post(posted.wake)
    assert len(portal) == 101
    gate.set()
    assert portal.wait(posted, WAIT_SECONDS)
    assert len(wake_ups) == 1
    assert len(portal) == 0


def test_a_posted_call_that_raises_is_reported_and_stops_no_other(
    loop: asyncio.AbstractEventLoop, portal: Portal
) -> None:
    reported: list[object] = []
    loop.set_exception_handler(lambda _, context: reported.append(context["exception"]))
    waiter, gate, error = Waiter(), threading.Event(), ValueError("no")

    def fail() -> None:
        raise error

    portal.post(gate.wait)  # so that both leave in one batch
    portal.post(fail)
    portal.post(waiter.wake)
    gate.set()
    assert portal.wait(waiter, WAIT_SECONDS)
    assert reported == [error]


def test_run_returns_what_the_coroutine_returns_and_raises_what_it_raises(portal: Portal) -> None:
    async def add(one: int, *, two: int) -> int:
        await asyncio.sleep(0)
        return one + two

    async def fail() -> None:
        raise KeyError("x")

    assert portal.run(add, 1, two=2) == 3
    with pytest.raises(KeyError):
        portal.run(fail)


def test_run_inside_a_running_loop_raises_wrong_loop_and_starts_nothing(portal: Portal) -> None:
    started: list[bool] = []

    async def work() -> None:
        started.append(True)

    async def main() -> None:
        portal.run(work)

    with pytest.raises(WrongLoop):
        asyncio.run(main())
    portal.run(asyncio.sleep, 0)
    assert not started


def test_a_stopped_portal_refuses_both_verbs(loop: asyncio.AbstractEventLoop, portal: Portal) -> None:
    in_loop(loop, portal, end=False)
    assert portal.is_closed
    with pytest.raises(NotConnected):
        portal.post(lambda: None)
    with pytest.raises(NotConnected):
        portal.run(asyncio.sleep, 0)


def test_what_was_posted_before_stop_still_runs(loop: asyncio.AbstractEventLoop, portal: Portal) -> None:
    ran: list[bool] = []

    async def close() -> None:
        portal.post(lambda: ran.append(True))
        await portal.stop()

    asyncio.run_coroutine_threadsafe(close(), loop).result(WAIT_SECONDS)
    assert ran == [True]


def test_stop_cancels_what_run_runs_and_its_thread_gets_not_connected(
    loop: asyncio.AbstractEventLoop, portal: Portal
) -> None:
    begun, unwound = threading.Event(), threading.Event()

    async def endless() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            unwound.set()

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(portal.run, endless)
        assert begun.wait(WAIT_SECONDS)
        in_loop(loop, portal, end=False)
        assert unwound.is_set()
        with pytest.raises(NotConnected):
            running.result(WAIT_SECONDS)


def test_a_cancellation_that_is_the_coroutines_own_stays_one(portal: Portal) -> None:
    async def cancelled() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        portal.run(cancelled)


def test_the_end_wakes_who_waits_and_who_comes_later(loop: asyncio.AbstractEventLoop, portal: Portal) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(portal.wait, Waiter(), WAIT_SECONDS)
        in_loop(loop, portal, end=True)
        assert waiting.result(WAIT_SECONDS)
    assert portal.wait(Waiter(), WAIT_SECONDS)


def test_a_loop_that_was_closed_without_a_word_gives_not_connected_ever_after() -> None:
    loop = asyncio.new_event_loop()
    portal = Portal(loop)
    loop.close()
    for _ in range(2):
        with pytest.raises(NotConnected):
            portal.post(lambda: None)
    assert portal.wait(Waiter(), WAIT_SECONDS)


def test_a_forgotten_portal_refuses_even_if_a_thread_that_is_gone_held_its_lock(portal: Portal) -> None:
    lock = portal._lock  # pyright: ignore[reportPrivateUsage] - there is no other way to be the thread that is gone
    with lock:
        portal.forget()
        with pytest.raises(NotConnected):
            portal.post(lambda: None)


@pytest.mark.parametrize("timeout", [None, 0.0, -1.0, 1e12, float("inf")])
def test_a_waiter_that_was_woken_waits_no_more_whatever_its_timeout(timeout: float | None) -> None:
    waiter = Waiter()
    waiter.wake()
    waiter.wake()
    assert waiter.wait(timeout)


@pytest.mark.parametrize("timeout", [0.0, -1.0, 0.001])
def test_a_waiter_that_nobody_wakes_says_so(timeout: float) -> None:
    assert not Waiter().wait(timeout)
