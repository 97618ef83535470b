"""The blocking face says of each job what the async one does."""

from typing import assert_type

import que
from que.job import Blocking
from tests.typing.cases.values import Message, Reversed

app = que.Que("memory://")
echo = app.add(que.Job("echo", Message, Reversed))
count = app.add(que.Job("count", str, int))

assert_type(app.blocking(), que.BlockingQue)
face: Blocking = app.blocking()
assert_type(face.submit(echo, Message("")).result(), Reversed)

with app.blocking() as q:
    assert_type(q, que.BlockingQue)
    handle = q.submit(echo, Message("2pac"), priority=que.Priority.LOW)
    assert_type(handle, que.BlockingHandle[Reversed])
    assert_type(handle.result(timeout=5), Reversed)
    assert_type(handle.peek(), Reversed)
    assert_type(handle.accepted(), que.Receipt)
    assert_type(handle.status(), que.JobStatus)
    assert_type(handle.cancel(), bool)
    assert_type(handle.error, que.QueError | None)
    for event in handle.events():
        assert_type(event, que.Progress | que.Chunk | que.Warned)
    assert_type(q.send(echo, Message("later"), delay=1), que.BlockingSending)
    assert_type(q.send(echo, Message("later")).result(), que.Receipt)
    assert_type(q.submit_many(count, "abc"), list[que.BlockingHandle[int]])
    for outcome in q.map(echo, [Message("")], in_flight=3):
        assert_type(outcome, que.Outcome[Message, Reversed])
    assert_type(q.send_many(count, ["a"]), que.Sent[str])
    with q.worker(concurrency=3) as worker:
        worker.stop(grace=1)

    q.submit(echo, Reversed("x"))  # E: mypy[misc] pyright[reportArgumentType]
    q.submit(count, 7)  # E: mypy[misc] pyright[reportArgumentType]
    q.submit(echo, Message("x"), prioritty=1)  # E: mypy[call-arg] pyright[reportCallIssue]
    q.send(echo, Message("x"), delay="1")  # E: mypy[arg-type] pyright[reportArgumentType]
    number: int = handle.result()  # E: mypy[assignment] pyright[reportAssignmentType]
    reversed_ = handle.result()
    reversed_.message  # E: mypy[attr-defined] pyright[reportAttributeAccessIssue,reportUnknownMemberType]
    print(number)


class Half:
    def submit(self, job: object, params: object) -> None: ...


half: Blocking = Half()  # E: mypy[assignment] pyright[reportAssignmentType]


async def cannot_be_awaited() -> None:
    await app.blocking().submit(echo, Message(""))  # E: mypy[misc] pyright[reportGeneralTypeIssues]
