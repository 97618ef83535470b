"""Flows: what follows takes what came before, and what is gathered is a list."""

from typing import assert_type

import que
from tests.typing.cases.values import Message, Reversed

app = que.Que("memory://", results="sqlite:///results.db")
reverse = app.add(que.Job("reverse", Message, Reversed))
shout = app.add(que.Job("shout", Message, Reversed))
length = app.add(que.Job("length", Reversed, int))
total = app.add(que.Job("total", list[int], int))
pick = app.add(que.Job("pick", list[Reversed], Reversed))
tell = app.add(que.Job("tell", que.FlowFailure, None))
tick = app.add(que.Job("tick", type(None), Message))


@app.job("halve", result_ttl=60)
async def halve(params: float) -> float:
    return params / 2


assert_type(reverse.then(length), que.Flow[Message, int])
assert_type(reverse.then(length.then(halve)), que.Flow[Message, float])
assert_type(reverse.then(length).then(halve).on_failure(tell), que.Flow[Message, float])
assert_type(tick.then(reverse), que.Flow[None, Reversed])
assert_type(que.together(reverse, shout), que.Gathered[Message, Reversed])
assert_type(que.together(reverse, shout).then(pick), que.Flow[Message, Reversed])
assert_type(que.together(reverse.then(length), shout.then(length)).then(total), que.Flow[Message, int])
assert_type(reverse.given(Message("2pac")), que.Flow[None, Reversed])
assert_type(reverse.then(length).given(Message("2pac")), que.Flow[None, int])
assert_type(que.together(reverse.given(Message("a")), shout.given(Message("b"))).then(pick), que.Flow[None, Reversed])


async def submits() -> None:
    handle = reverse.then(length).submit(Message("2pac"), result_ttl=10)
    assert_type(handle, que.Handle[int])
    assert_type(await handle, int)
    assert_type(await handle.accepted(), que.Receipt)
    reverse.then(length).submit(Reversed("capt"))  # E: mypy[arg-type] pyright[reportArgumentType]
    reverse.then(length).submit(Message("2pac"), ttl=1)  # E: mypy[call-arg] pyright[reportCallIssue]


def submits_blocking(q: que.BlockingQue) -> None:
    assert_type(q.submit_flow(reverse.then(length), Message("2pac")), que.BlockingHandle[int])
    q.submit_flow(reverse.then(length), Reversed("capt"))  # E: mypy[misc] pyright[reportArgumentType]


reverse.then(shout)  # E: mypy[arg-type] pyright[reportArgumentType]
reverse.then(length).then(reverse)  # E: mypy[arg-type] pyright[reportArgumentType]
reverse.then(reverse.then(length))  # E: mypy[arg-type] pyright[reportArgumentType]
que.together(reverse, shout).then(length)  # E: mypy[arg-type] pyright[reportArgumentType]
que.together(reverse, shout).then(total)  # E: mypy[arg-type] pyright[reportArgumentType]
que.together(reverse, length).then(pick)  # E: mypy[arg-type] pyright[reportArgumentType]
reverse.then(length).on_failure(reverse)  # E: mypy[arg-type] pyright[reportArgumentType]
reverse.given(Reversed("x"))  # E: mypy[arg-type] pyright[reportArgumentType]
