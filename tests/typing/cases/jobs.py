"""Declarations without a handler, and the class form."""

from typing import Generic, TypedDict, TypeVar, assert_type

import que
from tests.typing.cases.values import Message, Reversed

ItemT = TypeVar("ItemT")


class Sizes(TypedDict):
    width: int


resize = que.Job("resize", Message, Reversed)
assert_type(resize, que.Job[Message, Reversed])
assert_type(que.Job("log", Message, None), que.Job[Message, None])
assert_type(que.Job("tick", type(None), None), que.Job[None, None])
assert_type(que.Job("count", int, str, serializer=que.RAW), que.Job[int, str])
assert_type(que.Job("list", list[Message], dict[str, int]), que.Job[list[Message], dict[str, int]])
assert_type(que.Job("sizes", Sizes, bytes), que.Job[Sizes, bytes])

app = que.Que("memory://", mail="memory://")
assert_type(app.add(resize), que.Job[Message, Reversed])


@resize.handler
async def resize_here(params: Message) -> Reversed:
    return Reversed(params.message)


@resize.handler
def resize_with_context(params: Message, context: que.Context) -> Reversed:
    return Reversed(params.message)


assert_type(resize_here, que.Job[Message, Reversed])
assert_type(resize_with_context, que.Job[Message, Reversed])


async def other_params(params: int) -> Reversed:
    return Reversed(str(params))


async def other_result(params: Message) -> int:
    return len(params.message)


def other_result_of_def(params: Message) -> int:
    return len(params.message)


resize.handler(other_params)  # E: mypy[arg-type] pyright[reportCallIssue,reportArgumentType]
resize.handler(other_result)  # E: mypy[arg-type] pyright[reportCallIssue,reportArgumentType]
resize.handler(other_result_of_def)  # E: mypy[arg-type] pyright[reportCallIssue,reportArgumentType]
que.Job("resize", Message)  # E: mypy[call-overload] pyright[reportCallIssue]
que.Job("resize", Message, Reversed, timeout=3)  # E: mypy[call-overload] pyright[reportCallIssue]
que.Job("resize", Message("x"), Reversed)  # E: mypy[call-overload] pyright[reportCallIssue,reportArgumentType]


class EchoReverse(que.Model[Message, Reversed], job="echoReverse", driver="mail"):
    async def process(self) -> Reversed:
        assert_type(self.params, Message)
        self.context.progress(1, 2)
        return Reversed(self.params.message[::-1])

    async def finished(self, error: BaseException | None) -> None:
        return None


class Counted(que.Model[ItemT, int], Generic[ItemT]):
    async def process(self) -> int:
        assert_type(self.params, ItemT)
        return 1


class CountedMessages(Counted[Message], job="count"): ...


assert_type(app.add(CountedMessages), que.Job[Message, int])


class WrongProcess(que.Model[Message, Reversed], job="wrong"):
    async def process(self) -> int:  # E: mypy[override] pyright[reportIncompatibleMethodOverride]
        return 1


assert_type(app.add(EchoReverse), que.Job[Message, Reversed])


async def uses_the_model() -> None:
    assert_type(await EchoReverse.submit(Message("2pac")), Reversed)
    assert_type(await EchoReverse.send(Message("2pac"), delay=5), que.Receipt)
    EchoReverse.submit(Reversed("x"))  # E: mypy[arg-type] pyright[reportArgumentType]
    EchoReverse.send(Message("x"), dely=5)  # E: mypy[call-arg] pyright[reportCallIssue]
