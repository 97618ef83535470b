"""Many jobs: gather, as_completed, submit_many, map and send_many."""

from collections.abc import AsyncIterator
from typing import assert_type

import que
from tests.typing.cases.values import Message, Reversed

app = que.Que("memory://")
echo = app.add(que.Job("echo", Message, Reversed))
count = app.add(que.Job("count", str, int))
log = app.add(que.Job("log", str, None))


async def gathers() -> None:
    one, two, three = echo.submit(Message("")), count.submit(""), log.submit("")
    assert_type(await que.gather(one), tuple[Reversed])
    assert_type(await que.gather(one, two), tuple[Reversed, int])
    assert_type(await que.gather(one, two, three), tuple[Reversed, int, None])
    assert_type(await que.gather(one, two, three, one), tuple[Reversed, int, None, Reversed])
    assert_type(await que.gather(*[count.submit(each) for each in "abc"]), tuple[int, ...])
    first, second = await que.gather(one, two)
    assert_type(first.echo, str)
    assert_type(second, int)
    wrong: tuple[int, Reversed] = await que.gather(one, two)  # E: mypy[assignment] pyright[reportAssignmentType]
    await que.gather("x")  # E: mypy[call-overload] pyright[reportCallIssue,reportArgumentType]
    print(wrong)


async def completes() -> None:
    async for handle in que.as_completed(echo.submit_many([Message("")])):
        assert_type(handle, que.Handle[Reversed])
        assert_type(await handle, Reversed)
    que.as_completed(["x"])  # E: mypy[arg-type] pyright[reportArgumentType]


async def endless() -> AsyncIterator[Message]:
    while True:
        yield Message("")


async def streams() -> None:
    assert_type(echo.submit_many([Message("")]), list[que.Handle[Reversed]])
    assert_type(app.submit_many(count, "abc"), list[que.Handle[int]])
    async for outcome in echo.map(endless(), in_flight=10):
        assert_type(outcome, que.Outcome[Message, Reversed])
        assert_type(outcome.params, Message)
        assert_type(outcome.result, Reversed)
        assert_type(outcome.error, que.QueError | None)
    async for counted in app.map(count, (each for each in "abc")):
        assert_type(counted, que.Outcome[str, int])
    sent = await echo.send_many([Message("")])
    assert_type(sent, que.Sent[Message])
    assert_type(sent.accepted, int)
    for refused in sent.refused:
        assert_type(refused, que.Refused[Message])
        assert_type(refused.params, Message)
        assert_type(refused.error, que.QueError)
    assert_type(await app.send_many(echo, endless()), que.Sent[Message])


async def wrong() -> None:
    echo.submit_many([Reversed("")])  # E: mypy[list-item] pyright[reportArgumentType]
    echo.submit_many(endless())  # E: mypy[arg-type] pyright[reportArgumentType]
    echo.map(["x"])  # E: mypy[list-item] pyright[reportArgumentType]
    echo.map([Message("")], inflight=10)  # E: mypy[call-arg] pyright[reportCallIssue]
    await echo.send_many(["x"])  # E: mypy[list-item] pyright[reportArgumentType]
    await echo.map([Message("")])  # E: mypy[misc] pyright[reportGeneralTypeIssues]
