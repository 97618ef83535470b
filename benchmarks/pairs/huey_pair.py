"""huey over SQLite, with the settings that made it fastest: `huey_pair worker|client FUNCTION MODE FILE`."""

from importlib import import_module
from typing import Protocol, cast

from benchmarks.pairs.peer import Answer, Place, main_blocking, plain_echo, play_blocking_peer
from benchmarks.player import say


class Result(Protocol):
    def get(self, blocking: bool = ..., backoff: float = ..., max_delay: float = ...) -> object: ...


class Task(Protocol):
    def __call__(self, number: int, text: str, /) -> Result: ...


class Consumer(Protocol):
    def run(self) -> None: ...


class Huey(Protocol):
    def task(self, name: str) -> "Decorator": ...
    def create_consumer(self, **options: object) -> Consumer: ...


class Library(Protocol):
    def SqliteHuey(self, *, filename: str) -> Huey: ...


class Decorator(Protocol):
    def __call__(self, function: object, /) -> Task: ...


def declared(path: str, function: str) -> tuple[Huey, Task]:
    queue = cast(Library, import_module("huey")).SqliteHuey(filename=path)

    return queue, queue.task(name=function)(plain_echo)


def client(place: Place) -> None:
    _, task = declared(place.url, place.function)

    def result(sent: Result) -> Answer:
        """Ask until it is there: huey has no way to be told."""
        return cast(Answer, sent.get(blocking=True, backoff=1.0, max_delay=0.002))

    play_blocking_peer(place.mode, task, result)


def worker(place: Place) -> None:
    queue, _ = declared(place.url, place.function)
    consumer = queue.create_consumer(
        workers=4, worker_type="thread", initial_delay=0.001, max_delay=0.001, periodic=False
    )
    say("ready")
    consumer.run()


if __name__ == "__main__":
    main_blocking(client, worker)
