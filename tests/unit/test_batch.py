"""Batches that form by themselves: one tick, one call; group commit; order; drain; errors."""

import asyncio
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from que.batch import Batcher
from tests.unit.loops import in_loop, ticks, until


def flat(batches: list[list[int]]) -> list[int]:
    return [item for batch in batches for item in batch]


class Calls:
    """Writes down each call, and holds it open until `gate` is set."""

    def __init__(self, limit: int | None = None, is_open: bool = True) -> None:
        self.batches: list[list[int]] = []
        self.under_way = 0
        self.most = 0
        self.ended = 0
        self.gate = asyncio.Event()
        if is_open:
            self.gate.set()
        self.batcher = Batcher[int](self, limit, asyncio.get_running_loop())

    async def __call__(self, items: list[int]) -> None:
        self.batches.append(items)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await self.gate.wait()
        finally:
            self.under_way -= 1
            self.ended += 1


@in_loop
async def test_what_one_tick_collects_leaves_in_one_call() -> None:
    calls = Calls()
    for number in range(5):
        calls.batcher.add(number)
    calls.batcher.extend([5, 6])
    assert calls.batches == []
    await calls.batcher.drain()
    assert calls.batches == [[0, 1, 2, 3, 4, 5, 6]]
    calls.batcher.add(7)
    await calls.batcher.drain()
    assert calls.batches == [[0, 1, 2, 3, 4, 5, 6], [7]]
    await calls.batcher.close()


@in_loop
async def test_while_one_call_is_under_way_the_next_batch_grows() -> None:
    calls = Calls(limit=1, is_open=False)
    calls.batcher.add(0)
    await ticks()
    for number in range(1, 4):
        calls.batcher.add(number)
        await ticks()
    assert calls.batches == [[0]]
    assert len(calls.batcher) == 4
    calls.gate.set()
    await calls.batcher.drain()
    assert calls.batches == [[0], [1, 2, 3]]
    await calls.batcher.close()


@pytest.mark.parametrize("limit", [1, 2, 7])
@in_loop
async def test_no_more_calls_than_allowed_are_under_way(limit: int) -> None:
    calls = Calls(limit, is_open=False)
    for number in range(20):
        calls.batcher.add(number)
        await ticks(3)
    assert calls.under_way == limit
    assert len(calls.batcher) == 20
    calls.gate.set()
    await calls.batcher.drain()
    assert calls.most == limit
    assert sorted(flat(calls.batches)) == list(range(20))
    await calls.batcher.close()


@in_loop
async def test_without_a_limit_a_call_under_way_holds_nothing_up() -> None:
    calls = Calls(is_open=False)
    for number in range(20):
        calls.batcher.add(number)
        await ticks(3)
    assert calls.batches == [[number] for number in range(20)]
    calls.gate.set()
    await calls.batcher.close()


@in_loop
async def test_draining_waits_for_calls_under_way_and_for_what_waits_behind_them() -> None:
    calls = Calls(limit=1, is_open=False)
    calls.batcher.add(0)
    await ticks()
    calls.batcher.add(1)
    draining = asyncio.create_task(calls.batcher.drain())
    other = asyncio.create_task(calls.batcher.drain())
    await ticks()
    assert not draining.done()
    other.cancel()
    calls.gate.set()
    await draining
    assert calls.ended == 2
    assert len(calls.batcher) == 0
    await calls.batcher.drain()
    await calls.batcher.close()


@pytest.mark.parametrize("limit", [2, None], ids=["two at a time", "any number"])
@in_loop
async def test_draining_waits_for_what_was_added_before_it_and_for_nothing_else(limit: int | None) -> None:
    gates = [asyncio.Event() for _ in range(3)]

    async def call(items: list[int]) -> None:
        await gates[items[0]].wait()

    batcher = Batcher[int](call, limit, asyncio.get_running_loop())
    drains: list[asyncio.Task[None]] = []
    for number in range(3):
        batcher.add(number)
        drains.append(asyncio.create_task(batcher.drain()))
        await ticks()
    gates[1].set()
    await ticks()
    assert not any(drain.done() for drain in drains)
    gates[0].set()
    async with asyncio.timeout(10):
        await asyncio.gather(*drains[:2])
    assert len(batcher) == 1
    assert not drains[2].done()
    gates[2].set()
    await drains[2]
    await batcher.close()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="needs Python 3.12: eager_task_factory")
@in_loop
async def test_under_an_eager_task_factory_a_call_still_waits_for_the_end_of_the_tick() -> None:
    if sys.version_info >= (3, 12):
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
    calls = Calls()
    calls.batcher.add(0)
    calls.batcher.add(1)
    assert calls.batches == []
    await calls.batcher.drain()
    assert calls.batches == [[0, 1]]
    await calls.batcher.close()


@in_loop
async def test_a_caller_who_is_cancelled_does_not_cut_a_call_short() -> None:
    calls = Calls(is_open=False)

    async def caller() -> None:
        calls.batcher.add(0)
        await calls.batcher.drain()

    task = asyncio.create_task(caller())
    await until(lambda: calls.under_way)
    task.cancel()
    await asyncio.wait([task])
    calls.gate.set()
    await until(lambda: calls.ended)
    assert calls.batches == [[0]]
    await calls.batcher.close()


@pytest.mark.parametrize("limit", [1, None], ids=["one at a time", "any number"])
@pytest.mark.parametrize(
    "error", [ValueError("no"), asyncio.CancelledError()], ids=["an error", "a stray cancellation"]
)
def test_what_a_call_raises_is_told_and_the_next_batch_leaves(limit: int | None, error: BaseException) -> None:
    told: list[object] = []
    batches: list[list[int]] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, facts: told.append(facts["exception"]))

        async def call(items: list[int]) -> None:
            batches.append(items)
            await asyncio.sleep(0)
            if items[0] == 0:
                raise error

        batcher = Batcher[int](call, limit, loop)
        batcher.add(0)
        await until(lambda: batches)
        batcher.add(1)
        async with asyncio.timeout(10):
            await batcher.drain()
            batcher.add(2)
            await batcher.close()

    asyncio.run(main())
    assert flat(batches) == [0, 1, 2]
    assert told == [error]


@in_loop
async def test_closing_lets_everything_leave_and_ends_the_tasks() -> None:
    before = asyncio.all_tasks()
    calls = Calls(limit=3)
    for number in range(50):
        calls.batcher.add(number)
        await ticks(1)
    await calls.batcher.close()
    assert sorted(flat(calls.batches)) == list(range(50))
    assert asyncio.all_tasks() == before


@in_loop
async def test_an_idle_batcher_keeps_no_more_tasks_than_it_needed_at_once() -> None:
    before = len(asyncio.all_tasks())
    calls = Calls()
    for number in range(500):
        calls.batcher.add(number)
        await calls.batcher.drain()
    assert len(asyncio.all_tasks()) - before <= 2
    await calls.batcher.close()


@given(
    st.lists(st.tuples(st.sampled_from(["add", "extend", "tick", "drain"]), st.integers(0, 3)), max_size=40),
    st.none() | st.integers(1, 4),
    st.integers(0, 3),
)
def test_every_item_leaves_once_in_order_and_never_in_too_many_calls(
    steps: list[tuple[str, int]], limit: int | None, call_ticks: int
) -> None:
    batches: list[list[int]] = []
    added: list[int] = []
    most = under_way = 0

    async def call(items: list[int]) -> None:
        nonlocal most, under_way
        under_way += 1
        most = max(most, under_way)
        batches.append(items)
        await ticks(call_ticks)
        under_way -= 1

    async def main() -> None:
        batcher = Batcher[int](call, limit, asyncio.get_running_loop())
        for what, count in steps:
            new = list(range(len(added), len(added) + count))
            if what == "tick":
                await ticks(count)
            elif what == "drain":
                await batcher.drain()
                assert flat(batches) == added
            else:
                added.extend(new)
                if what == "extend":
                    batcher.extend(new)
                else:
                    for number in new:
                        batcher.add(number)
        await batcher.close()

    asyncio.run(main())
    assert flat(batches) == added
    assert all(batches)
    assert limit is None or most <= limit
