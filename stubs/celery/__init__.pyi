"""celery 5.7, as far as the benchmarks use it: checking them shall not take the package."""

from collections.abc import Callable, Mapping, Sequence

from celery.result import AsyncResult

class Settings:
    def update(self, **settings: object) -> None: ...

class Task:
    def delay(self, number: int, text: str, /) -> AsyncResult: ...

class Celery:
    conf: Settings
    def __init__(self, *, broker: str, backend: str) -> None: ...
    def task(self, *, name: str) -> Callable[[Callable[[int, str], Mapping[str, object]]], Task]: ...
    def worker_main(self, argv: Sequence[str]) -> None: ...
