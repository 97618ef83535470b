"""Engines with what keeps their results and flows: themselves, or a file beside them."""

import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import que

JobsT = TypeVar("JobsT")


@dataclass(frozen=True, slots=True)
class Engine:
    """`results`: the URL of the store, None where the engine keeps everything. `shared`: processes can share it."""

    url: str
    results: str | None
    shared: bool = True

    def app(self) -> "que.Que[None]":
        """Return an app that is not connected."""
        return que.Que(self.url, results=self.results)


Make = Callable[[str], Engine]


def companion(directory: Path) -> str:
    """Return the URL of a file that keeps what an engine does not."""
    return f"sqlite:///{directory / 'results.db'}"


class Names:
    """Job names that no other test uses: a server may be shared."""

    def __init__(self) -> None:
        self._suffix = secrets.token_hex(4)

    def __call__(self, name: str) -> str:
        return f"{name}-{self._suffix}"


@asynccontextmanager
async def working(engine: Engine, declare: Callable[["que.Que[None]"], JobsT]) -> AsyncGenerator[JobsT, None]:
    """Yield the jobs that `declare` gives an app, worked in an app of their own where the engine can be shared."""
    app = engine.app()
    jobs = declare(app)
    if not engine.shared:
        async with app, app.worker(concurrency=10):
            yield jobs
        return
    other = engine.app()
    declare(other)
    async with app, other, other.worker(concurrency=10):
        yield jobs
