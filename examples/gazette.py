"""A gazette that prints an edition every second: what is built above jobs, on a gearmand with a file beside it.

A schedule begins each edition; a flow has two stories written, no more than the rate and the slots of the writers
allow, has their words counted in a process of its own, and binds them. The file keeps the ticks, the state of the flows
and the results that gearmand throws away. It is an engine, too: it counts what all workers post to the readers, which
gearmand cannot. It ends after two editions.

python gazette.py
"""

import asyncio
import os
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import que

URL = os.environ.get("QUE_URL", "gearman://127.0.0.1:4730")
STORE = os.environ.get("QUE_STORE", f"sqlite:///{Path(tempfile.gettempdir()) / 'gazette.db'}")
EDITIONS = 2


@dataclass(frozen=True, slots=True)
class Story:
    topic: str
    text: str


@dataclass(frozen=True, slots=True)
class Column:
    topic: str
    words: int


@dataclass(slots=True)
class Press:
    """What a worker process opens once: its handlers find it in `context.state`."""

    editions: int = 0
    ran: set[str] = field(default_factory=set[str])
    done: asyncio.Event = field(default_factory=asyncio.Event)


@asynccontextmanager
async def lifespan() -> AsyncGenerator[Press, None]:
    press = Press()
    yield press
    print("the press has run", ", ".join(sorted(press.ran)))


async def note(context: que.Context[Press], params: object, call_next: que.Next) -> object:
    """A middleware: it goes around every run of every job."""
    result = await call_next(params)
    context.state.ran.add(context.job.removeprefix("gazette-"))
    return result


app = que.Que(URL, STORE, lifespan=lifespan, middleware=[note], results=STORE, schedule_store=STORE)


@app.job("gazette-write", concurrency=2, rate="50/s", retry=que.Retry(attempts=3, base=0.1))
async def write(topic: str) -> Story:
    return Story(topic, f"All is well with the {topic}, as it was yesterday")


@app.job("gazette-count", executor="process", result_ttl=60)
def count(story: Story) -> Column:
    return Column(story.topic, len(story.text.split()))


@app.job("gazette-bind")
async def bind(columns: list[Column], context: que.Context[Press]) -> str:
    context.state.editions += 1
    return (
        f"edition {context.state.editions}: {', '.join(f'{each.words} words on the {each.topic}' for each in columns)}"
    )


@app.job("gazette-apologise")
async def apologise(failure: que.FlowFailure) -> None:
    print(f"no edition today: {failure.job}: {failure.message}")


@app.job("gazette-post", driver="sqlite", total_rate="1000/h")
async def post(text: str) -> str:
    return f"posted {text}"


column = write.then(count)
edition = que.together(column.given("harbour"), column.given("weather")).then(bind).on_failure(apologise)


@app.every(seconds=1)
@app.job("gazette-morning")
async def morning(params: None, context: que.Context[Press]) -> None:
    print(await post.submit(await edition.submit(None)))
    if context.state.editions == EDITIONS:
        context.state.done.set()


@app.job("gazette-wait")
async def wait(params: None, context: que.Context[Press]) -> None:
    await context.state.done.wait()


async def main() -> None:
    async with app, app.worker(children=1):
        async with app.scheduler():
            await wait.submit(None)
        receipt = await count.send(Story("letters", "To the editor"))  # nobody waits for it
        print("found again:", (await app.handle(count, receipt)).words)


if __name__ == "__main__":
    asyncio.run(main())
