"""One app on every engine there is: nothing but the URL is another."""

import asyncio
from dataclasses import dataclass

import pytest

import que
from tests.contract.engines import Engine, Make, Names, working
from tests.unit.loops import in_loop, until

KINDS = ["memory", "sqlite", "redis", "postgres", "gearman", "amqp", "nats"]


@dataclass(frozen=True, slots=True)
class Order:
    item: str
    count: int


@dataclass(frozen=True, slots=True)
class Receipt:
    text: str
    attempts: int


class Shop:
    """The jobs of an app; `sold` and `tries` are what their handlers have noted."""

    def __init__(self, app: "que.Que[None]", names: Names, sold: list[Order], tries: dict[str, int]) -> None:
        self.app = app

        @app.job(names("sell"), retry=que.Retry(attempts=3, base=0.01))
        async def sell(params: Order, context: que.Context) -> Receipt:
            tries[params.item] = tries.get(params.item, 0) + 1
            if params.count < 0:
                raise que.Reject("less than nothing")
            if params.item == "shy" and tries["shy"] < 3:
                raise ValueError("not yet")
            context.progress(1, 2)
            context.send_chunk(params.item.encode())
            return Receipt(f"{params.count} {params.item}", tries[params.item])

        @app.job(names("note"))
        def note(params: Order) -> None:
            sold.append(params)

        self.sell, self.note = sell, note


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, make: Make) -> Engine:
    return make(request.param)


@in_loop
async def test_an_app_moves_to_another_engine_by_its_url_alone(place: Engine) -> None:
    names, sold, tries = Names(), list[Order](), dict[str, int]()
    async with working(place, lambda app: Shop(app, names, sold, tries)) as shop, asyncio.timeout(50):
        handle = shop.sell.submit(Order("apples", 3))
        told = [event async for event in handle.events()]
        assert await handle == Receipt("3 apples", 1)
        assert [type(event) for event in told] == [que.Progress, que.Chunk]
        assert await shop.sell.submit(Order("shy", 1)) == Receipt("1 shy", 3)
        with pytest.raises(que.JobFailed, match="Reject: less than nothing"):
            await shop.sell.submit(Order("pears", -1))
        seen = {outcome.params.count: outcome.result.text async for outcome in shop.sell.map(orders(50))}
        assert seen == {count: f"{count} plums" for count in range(50)}
        assert (await shop.note.send(Order("figs", 1), delay=0.01)).job == shop.note.name
        assert (await shop.note.send_many(orders(50))).accepted == 50
        await until(lambda: len(sold) == 51)
        assert sorted(order.count for order in sold if order.item == "plums") == list(range(50))


def orders(count: int) -> list[Order]:
    return [Order("plums", number) for number in range(count)]
