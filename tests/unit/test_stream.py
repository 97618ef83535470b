"""map and send_many: streams of any length in bounded memory, and what happens when a side of them breaks."""

import asyncio
import gc
import itertools
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from contextlib import aclosing
from typing import cast

import pytest
from msgspec.structs import replace

import que
from que.driver import EventSink
from que.model import Envelope, Failed
from tests.unit.fakes import NOTHING_MORE, FakeDriver, accept, url_of
from tests.unit.loops import in_loop, ticks, until

Items = Iterable[int] | AsyncIterable[int]
ECHO = que.Job("echo", int, int)
in_both_forms = pytest.mark.parametrize("form", ["sync", "async"])


class Source:
    """Counts what was taken of it; endless unless `error` ends it after `count` items."""

    def __init__(self, count: int | None = None, error: Exception | None = None) -> None:
        self.taken = 0
        self.closed = False
        self._count = count
        self._error = error

    def sync(self) -> Iterator[int]:
        try:
            for number in itertools.count():
                if number == self._count:
                    if self._error is not None:
                        raise self._error
                    return
                self.taken += 1
                yield number
        finally:
            self.closed = True

    async def stream(self) -> AsyncIterator[int]:
        for number in self.sync():
            await asyncio.sleep(0)
            yield number

    def items(self, form: str) -> Items:
        return self.sync() if form == "sync" else self.stream()


def echo(events: EventSink, envelope: Envelope) -> None:
    """Answer as an engine whose workers are at once done."""
    events.accepted(envelope.id, envelope.id)
    if not envelope.background:
        events.completed(envelope.id, envelope.payload)


def refuse_odd(events: EventSink, envelope: Envelope) -> None:
    if int(envelope.payload) % 2:
        events.refused(envelope.id, que.QueueFull("odd"))
    else:
        echo(events, envelope)


def fail_odd(events: EventSink, envelope: Envelope) -> None:
    if int(envelope.payload) % 2:
        events.failed(envelope.id, Failed("handler", "ValueError", "odd"))
    else:
        echo(events, envelope)


def app_with(driver: FakeDriver, max_unsent: int = 100_000) -> que.Que[None]:
    return que.Que(url_of(driver), max_unsent=max_unsent)


@in_both_forms
@in_loop
async def test_map_yields_an_outcome_for_every_item(form: str) -> None:
    driver = FakeDriver()
    driver.answer = fail_odd
    async with app_with(driver) as app:
        outcomes = [each async for each in app.map(ECHO, Source(20).items(form), in_flight=3)]
    assert sorted(each.params for each in outcomes) == list(range(20))
    for each in outcomes:
        if each.params % 2:
            assert isinstance(each.error, que.JobFailed)
            with pytest.raises(que.JobFailed, match="odd"):
                _ = each.result
        else:
            assert each.error is None
            assert each.result == each.params


@in_both_forms
@in_loop
async def test_map_has_no_more_under_way_than_in_flight(form: str) -> None:
    driver = FakeDriver()
    source = Source()
    async with app_with(driver) as app, aclosing_map(app, source.items(form), 5) as outcomes:
        waiting = asyncio.ensure_future(anext(outcomes))
        await until(lambda: len(driver.envelopes) == 5)
        await ticks(20)
        assert len(driver.envelopes) == 5
        assert source.taken <= 6
        driver.events.completed(driver.envelopes[2].id, b"2")
        assert (await waiting).params == 2
        await until(lambda: len(driver.envelopes) == 6)
        await ticks(20)
        assert len(driver.envelopes) == 6
        assert source.taken <= 7


def aclosing_map(app: que.Que[None], items: Items, in_flight: int) -> "aclosing[Outcomes]":
    return aclosing(cast("Outcomes", app.map(ECHO, items, in_flight=in_flight)))


class Outcomes(AsyncIterator[que.Outcome[int, int]]):
    """What map() gives is closed early in these tests, so that they see what that leaves behind."""

    async def aclose(self) -> None: ...


@in_both_forms
@in_loop
async def test_a_slow_reader_of_map_stops_the_reading_of_the_items(form: str) -> None:
    driver = FakeDriver()
    driver.answer = echo
    source = Source()
    async with app_with(driver) as app, aclosing_map(app, source.items(form), 5) as outcomes:
        for read in range(1, 50):
            await anext(outcomes)
            await ticks(20)
            assert source.taken <= read + 6


@in_both_forms
@in_loop
async def test_endless_items_take_no_more_memory_the_longer_they_last(form: str) -> None:
    driver = FakeDriver()
    driver.answer = echo
    async with app_with(driver) as app, aclosing_map(app, Source().items(form), 10) as outcomes:
        counts: list[int] = []
        for _ in range(3):
            for _ in range(500):
                await anext(outcomes)
            driver.batches.clear()
            gc.collect()
            counts.append(len(gc.get_objects()))
        assert counts[2] - counts[1] < 200


@in_both_forms
@in_loop
async def test_an_error_of_the_items_is_raised_after_what_they_gave_has_ended(form: str) -> None:
    driver = FakeDriver()
    seen: list[que.Outcome[int, int]] = []
    async with app_with(driver) as app:
        reading = asyncio.create_task(collect(app.map(ECHO, Source(3, OSError("the file is torn")).items(form)), seen))
        await until(lambda: len(driver.envelopes) == 3)
        await ticks(20)
        assert not reading.done()
        for envelope in driver.envelopes:
            driver.events.completed(envelope.id, envelope.payload)
        with pytest.raises(OSError, match="the file is torn"):
            await reading
    assert [each.result for each in seen] == [0, 1, 2]


@in_both_forms
@in_loop
async def test_send_many_raises_an_error_of_the_items_after_sending_what_they_gave(form: str) -> None:
    driver = FakeDriver()
    async with app_with(driver) as app:
        with pytest.raises(OSError, match="the file is torn"):
            await app.send_many(ECHO, Source(3, OSError("the file is torn")).items(form))
    assert [envelope.payload for envelope in driver.envelopes] == [b"0", b"1", b"2"]


@in_both_forms
@in_loop
async def test_leaving_map_early_abandons_what_is_under_way_and_leaves_no_task(form: str) -> None:
    driver = FakeDriver()
    source = Source()
    async with app_with(driver) as app:
        async with aclosing_map(app, source.items(form), 5) as outcomes:
            waiting = asyncio.ensure_future(anext(outcomes))
            await until(lambda: len(driver.envelopes) == 5)
            driver.events.completed(driver.envelopes[0].id, b"0")
            assert (await waiting).result == 0
        taken = source.taken
        feeders = [task for task in asyncio.all_tasks() if "feed" in repr(task.get_coro())]
        assert feeders == []
        gc.collect()
        assert [each for each in gc.get_objects() if type(each).__name__ == "_Window"] == []
        for envelope in driver.envelopes:
            driver.events.completed(envelope.id, envelope.payload)
        await ticks(20)
        assert source.taken == taken


@in_loop
async def test_leaving_map_by_break_ends_the_reading_of_the_items() -> None:
    driver = FakeDriver()
    driver.answer = echo
    source = Source()
    async with app_with(driver) as app:
        async for _ in app.map(ECHO, source.items("async"), in_flight=2):
            break
        gc.collect()
        await until(lambda: source.closed)


@in_loop
async def test_leaving_map_early_reports_no_error_of_the_items_behind_the_back_of_its_reader() -> None:
    driver = FakeDriver()
    async with app_with(driver) as app:
        async with aclosing_map(app, Source(2, OSError("torn")).items("sync"), 5) as outcomes:
            waiting = asyncio.ensure_future(anext(outcomes))
            await until(lambda: len(driver.envelopes) == 2)
            driver.events.completed(driver.envelopes[0].id, b"0")
            await waiting
        del outcomes, waiting
        gc.collect()
        await ticks(20)
        # in_loop fails if the loop's exception handler heard of it.


@in_both_forms
@in_loop
async def test_a_cancelled_map_stops_reading_its_items(form: str) -> None:
    driver = FakeDriver()
    source = Source()

    async def read(app: que.Que[None]) -> None:
        async for _ in app.map(ECHO, source.items(form), in_flight=5):
            pass

    async with app_with(driver) as app:
        reading = asyncio.create_task(read(app))
        await until(lambda: len(driver.envelopes) == 5)
        reading.cancel()
        await asyncio.wait([reading])
        assert reading.cancelled()
        await until(lambda: [task for task in asyncio.all_tasks() if "feed" in repr(task.get_coro())] == [])
        for envelope in driver.envelopes:
            driver.events.completed(envelope.id, envelope.payload)


@in_loop
async def test_a_bad_item_is_an_outcome_with_its_error_and_the_others_go_on() -> None:
    driver = FakeDriver()
    driver.answer = echo
    bad = cast(Iterable[int], [1, "two", 3, [], 5])
    async with app_with(driver) as app:
        outcomes = [each async for each in app.map(ECHO, bad, in_flight=2)]
        sent = await app.send_many(ECHO, bad, in_flight=2)
    assert [each.params for each in outcomes if each.error is None] == [1, 3, 5]
    errors = [str(each.error) for each in outcomes if isinstance(each.error, que.ParamsInvalid)]
    assert errors == [f"job 'echo': params: expected int, got {kind}" for kind in ("str", "list")]
    assert sent.accepted == 3
    assert [str(each.error) for each in sent.refused] == errors


@in_loop
async def test_an_item_that_is_too_large_is_refused_alone() -> None:
    driver = FakeDriver(replace(NOTHING_MORE, max_payload=2))
    async with app_with(driver) as app:
        sent = await app.send_many(ECHO, [1, 1000, 22])
    assert sent.accepted == 2
    assert [(each.params, type(each.error)) for each in sent.refused] == [(1000, que.Rejected)]


@in_both_forms
@in_loop
async def test_send_many_counts_the_accepted_and_returns_the_refused_with_their_errors(form: str) -> None:
    driver = FakeDriver()
    driver.answer = refuse_odd
    async with app_with(driver) as app:
        sent = await app.send_many(ECHO, Source(10).items(form), in_flight=3)
    assert sent.accepted == 5
    assert sorted(each.params for each in sent.refused) == [1, 3, 5, 7, 9]
    assert {type(each.error) for each in sent.refused} == {que.QueueFull}
    assert all(envelope.background for envelope in driver.envelopes)


@in_loop
async def test_send_many_has_no_more_unanswered_than_in_flight() -> None:
    driver = FakeDriver()

    def keep(events: EventSink, envelope: Envelope) -> None: ...

    driver.answer = keep
    async with app_with(driver) as app:
        sending = asyncio.create_task(app.send_many(ECHO, range(20), in_flight=4))
        for answer in range(20):
            wanted = min(answer + 4, 20)
            while len(driver.envelopes) < wanted:
                await ticks()
            await ticks(10)
            assert len(driver.envelopes) == wanted
            accept(driver.events, driver.envelopes[answer])
        assert (await sending).accepted == 20


@in_loop
async def test_map_waits_where_submit_would_be_overloaded() -> None:
    driver = FakeDriver()
    driver.answer = echo
    async with app_with(driver, max_unsent=3) as app:
        driver.gate.clear()
        mapping = asyncio.create_task(collect(app.map(ECHO, range(50), in_flight=20)))
        await until(lambda: driver.envelopes)
        await ticks(20)
        assert len(driver.envelopes) == 3
        driver.gate.set()
        outcomes = await mapping
    assert sorted(each.result for each in outcomes) == list(range(50))


async def collect(
    outcomes: AsyncIterator[que.Outcome[int, int]], into: list[que.Outcome[int, int]] | None = None
) -> list[que.Outcome[int, int]]:
    """Return what `outcomes` gives; `into` has what came before an error too."""
    collected = [] if into is None else into
    async for each in outcomes:
        collected.append(each)
    return collected


@pytest.mark.parametrize("items", [[], (number for number in range(0))], ids=["list", "generator"])
@in_loop
async def test_nothing_to_do_is_done_at_once(items: Iterable[int]) -> None:
    async with app_with(FakeDriver()) as app:
        assert await collect(app.map(ECHO, items)) == []
        sent = await app.send_many(ECHO, [])
        assert (sent.accepted, sent.refused) == (0, [])


@pytest.mark.parametrize("in_flight", [0, -1])
@in_loop
async def test_room_for_none_under_way_is_refused(in_flight: int) -> None:
    async with app_with(FakeDriver()) as app:
        with pytest.raises(que.ConfigurationError, match=f"in_flight={in_flight}"):
            await collect(app.map(ECHO, [1], in_flight=in_flight))
        with pytest.raises(que.ConfigurationError, match=f"in_flight={in_flight}"):
            await app.send_many(ECHO, [1], in_flight=in_flight)


@in_loop
async def test_map_ends_in_not_connected_when_its_app_is_disconnected_under_way() -> None:
    driver = FakeDriver()
    app = app_with(driver)
    await app.connect()
    ends: list[que.Outcome[int, int]] = []
    reading = asyncio.create_task(collect(app.map(ECHO, itertools.count(), in_flight=3), ends))
    await until(lambda: len(driver.envelopes) == 3)
    await app.disconnect()
    with pytest.raises(que.NotConnected):
        await reading
    assert {type(each.error) for each in ends} == {que.ConnectionLost}


def elsewhere(read: Callable[[], object]) -> BaseException | None:
    try:
        read()
    except que.QueError as error:
        return error
    return None


@in_loop
async def test_map_in_another_loop_is_an_error_and_not_one_for_each_item() -> None:
    driver = FakeDriver()
    async with app_with(driver) as app:
        outcomes = app.map(ECHO, range(5))
        error = await asyncio.to_thread(elsewhere, lambda: asyncio.run(collect_soon(outcomes)))
    assert isinstance(error, que.WrongLoop)


async def collect_soon(outcomes: AsyncIterator[que.Outcome[int, int]]) -> None:
    async with asyncio.timeout(5):
        await collect(outcomes)
