"""One job at a time: submit, send, and what a handle tells."""

from collections.abc import Awaitable
from datetime import UTC, datetime
from typing import assert_type

import que
from tests.typing.cases.values import Message, Reversed

app = que.Que("memory://")
echo = app.add(que.Job("echo", Message, Reversed))
count = app.add(que.Job("count", str, int))
tick = app.add(que.Job("tick", type(None), None))


async def submits() -> None:
    handle = echo.submit(Message("2pac"))
    assert_type(handle, que.Handle[Reversed])
    assert_type(await handle, Reversed)
    assert_type((await handle).echo, str)
    assert_type(await echo.submit(Message("2pac")), Reversed)
    assert_type(await app.submit(echo, Message("2pac"), priority=que.Priority.HIGH), Reversed)
    assert_type(await handle.result(timeout=3), Reversed)
    assert_type(handle.peek(), Reversed)
    assert_type(await handle.accepted(), que.Receipt)
    assert_type(await handle.status(), que.JobStatus)
    assert_type(await handle.cancel(), bool)
    assert_type(handle.done, bool)
    assert_type(handle.error, que.QueError | None)
    assert_type(handle.events(), que.Events)
    async for event in handle.events():
        assert_type(event, que.Progress | que.Chunk | que.Warned)
        if isinstance(event, que.Progress):
            assert_type(event.done, int)
    await tick.submit(None)


async def sends() -> None:
    assert_type(echo.send(Message("later"), delay=10, unique="later", expires=60), que.Sending)
    receipt = await app.send(echo, Message("later"), at=datetime.now(UTC), run_timeout=3)
    assert_type(receipt, que.Receipt)
    assert_type(await app.status(receipt), que.JobStatus)
    awaitable: Awaitable[que.Receipt] = echo.send(Message("later"))
    await awaitable


def takes_any_result(handle: que.Handle[object]) -> None: ...


takes_any_result(echo.submit(Message("")))


async def wrong() -> None:
    echo.submit(Reversed("x"))  # E: mypy[arg-type] pyright[reportArgumentType]
    echo.submit("x")  # E: mypy[arg-type] pyright[reportArgumentType]
    echo.submit()  # E: mypy[call-arg] pyright[reportCallIssue]
    echo.submit(params=Message("x"))  # E: mypy[call-arg] pyright[reportCallIssue]
    echo.send(Reversed("x"))  # E: mypy[arg-type] pyright[reportArgumentType]
    app.submit(count, 7)  # E: mypy[misc] pyright[reportArgumentType]
    app.send(count, 7)  # E: mypy[misc] pyright[reportArgumentType]
    echo.submit(Message("x"), priorty=que.Priority.HIGH)  # E: mypy[call-arg] pyright[reportCallIssue]
    echo.submit(Message("x"), priority="high")  # E: mypy[arg-type] pyright[reportArgumentType]
    echo.send(Message("x"), delay="10 s")  # E: mypy[arg-type] pyright[reportArgumentType]
    app.send(echo, Message("x"), timeout=3)  # E: mypy[call-arg] pyright[reportCallIssue]
    reversed_ = await echo.submit(Message("x"))
    reversed_.message  # E: mypy[attr-defined] pyright[reportAttributeAccessIssue,reportUnknownMemberType]
    number: int = await echo.submit(Message("x"))  # E: mypy[assignment] pyright[reportAssignmentType]
    text: str = await count.submit("x")  # E: mypy[assignment] pyright[reportAssignmentType]
    not_awaited = echo.submit(Message("x"))
    not_awaited.echo  # E: mypy[attr-defined] pyright[reportAttributeAccessIssue,reportUnknownMemberType]
    handle: que.Handle[Message] = echo.submit(Message("x"))  # E: mypy[assignment] pyright[reportAssignmentType]
    await echo.submit(Message("x")).result("3 s")  # E: mypy[arg-type] pyright[reportArgumentType]
    print(number, text, handle)
