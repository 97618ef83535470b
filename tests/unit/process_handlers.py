"""Handlers that run in processes of their own; what they have to tell they write into the folder of their order."""

import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import que


@dataclass(frozen=True)
class Order:
    """What a handler is to do: `word`, in `folder`."""

    word: str
    folder: str = ""


class Unpicklable(Exception):
    def __init__(self, name: str, lock: object) -> None:
        super().__init__(name)
        self.lock = lock


def echoes(order: Order) -> str:
    return order.word[::-1]


def tells_its_process(order: Order) -> int:
    return os.getpid()


def raises(order: Order) -> str:
    errors: dict[str, BaseException] = {
        "ValueError": ValueError("of mine"),
        "Reject": que.Reject("why"),
        "RetryAfter": que.RetryAfter(90),
        "SystemExit": SystemExit(3),
        "KeyboardInterrupt": KeyboardInterrupt(),
        "StopIteration": StopIteration(),
        "Unpicklable": Unpicklable("with a lock", threading.Lock()),
    }
    raise errors[order.word]


def gives_another_type(order: Order) -> str:
    return len(order.word)  # type: ignore[return-value]  # pyright: ignore[reportReturnType] - that is the point


def dies(order: Order) -> str:
    """Die as `word` says, if it has not died in `folder` yet."""
    marks = Path(order.folder) if order.folder else None
    if marks is not None and any(marks.iterdir()):
        return "alive"
    if marks is not None:
        (marks / str(os.getpid())).touch()
    if order.word == "exit":
        os._exit(7)
    os.kill(os.getpid(), getattr(signal, order.word))
    return "never"


def holds(order: Order) -> str:
    """Tell the process in a file, and return once there is a file called go."""
    folder = Path(order.folder)
    (folder / f"{order.word}-{os.getpid()}").touch()
    while not (folder / "go").exists():
        time.sleep(0.01)
    return order.word


def spins(order: Order) -> int:
    """Keep the processor busy for `word` seconds, never giving way."""
    end = time.monotonic() + float(order.word)
    count = 0
    while time.monotonic() < end:
        count += 1
    return min(count, 1)


def tells_all(order: Order, context: que.Context) -> list[str]:
    thread = threading.Thread(target=context.progress, args=(1, 2))
    thread.start()
    thread.join()
    context.warn("careful")
    context.send_chunk(b"part")
    return [context.job, context.job_id, str(context.attempt), str(context.deadline is None), str(context.cancelled)]


def tells_its_headers(order: Order, context: que.Context) -> dict[str, str]:
    return dict(context.headers)


def tells_its_progress(order: Order, context: que.Context) -> str:
    context.progress(1, 2)
    return "done"


def looks_at(order: Order, context: que.Context) -> str:
    return str(getattr(context, order.word))


def reverses_bytes(data: bytes) -> bytes:
    return data[::-1]


def plain(order: Order) -> str:
    return order.word


def forks_and_dies(order: Order) -> str:
    if os.fork() == 0:
        # Holds the pipe open, after the death of the one that forked it.
        time.sleep(5)
        os._exit(0)
    os._exit(1)


wrapped = que.Job("wrapped", Order, str, executor="process")


@wrapped.handler
def decorated(order: Order) -> str:
    return f"decorated {order.word}"
