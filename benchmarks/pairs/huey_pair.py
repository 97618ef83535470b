"""huey over SQLite, with the settings that made it fastest: `huey_pair worker|client FILE FUNCTION MODE`."""

import logging
import sys
from importlib import import_module
from typing import Protocol, cast

from benchmarks.pairs.typed import numbered
from benchmarks.player import IN_FLIGHT, play, say


class Result(Protocol):
    def get(self, blocking: bool = ..., backoff: float = ..., max_delay: float = ...) -> object: ...


class Task(Protocol):
    def __call__(self, number: int, text: str) -> Result: ...


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

    def echo(number: int, text: str) -> dict[str, object]:
        return {"number": number, "text": text}

    return queue, queue.task(name=function)(echo)


def call(task: Task, count: int) -> None:
    """Keep IN_FLIGHT under way; each result is asked for until it is there, as huey has no way to be told."""
    items = list(numbered(count))
    for begun in range(0, count, IN_FLIGHT):
        half = [(params, task(params.number, params.text)) for params in items[begun : begun + IN_FLIGHT]]
        for params, result in half:
            answer = cast(dict[str, object], result.get(blocking=True, backoff=1.0, max_delay=0.002))
            assert answer["number"] == params.number


def send(task: Task, count: int) -> None:
    for params in numbered(count):
        task(params.number, params.text)


MODES = {"submit": call, "send": send}


def main(role: str, path: str, function: str, mode: str) -> None:
    logging.disable(logging.INFO)
    queue, task = declared(path, function)
    if role == "worker":
        consumer = queue.create_consumer(
            workers=4, worker_type="thread", initial_delay=0.001, max_delay=0.001, periodic=False
        )
        say("ready")
        consumer.run()
    else:
        play(lambda count: MODES[mode](task, count))


if __name__ == "__main__":
    main(*sys.argv[1:])
