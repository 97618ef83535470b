from collections.abc import Generator, Mapping
from typing import Self

class TaskResult:
    result: Mapping[str, object]

class Task:
    def __await__(self) -> Generator[object, None, Self]: ...
    async def result(self, timeout: int) -> TaskResult: ...

class AsyncRegisteredTask:
    def enqueue(self, number: int, text: str, /) -> Task: ...
