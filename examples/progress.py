"""One job, watched in three ways: its events, its result, and a wait that gives up and does the job no harm.

python progress.py
"""

import asyncio
from dataclasses import dataclass

import que

app = que.Que()  # $QUE_URL, or else memory://


@dataclass(frozen=True, slots=True)
class Report:
    pages: int


@app.job("report")
async def report(params: Report, context: que.Context) -> str:
    for number in range(params.pages):
        context.send_chunk(f"page {number + 1}".encode())
        context.progress(number + 1, params.pages)
        await asyncio.sleep(0.05)
    context.warn("the paper is used up")
    return f"{params.pages} pages"


async def show(handle: que.Handle[str]) -> None:
    """Print what happens to the job until it ends."""
    async for event in handle.events():
        match event:
            case que.Progress(done, total):
                print(f"{done} of {total}")
            case que.Chunk(data):
                print(data.decode())
            case que.Warned(text):
                print("warning:", text)


async def give_up(handle: que.Handle[str]) -> None:
    """Wait for a moment only."""
    try:
        await handle.result(timeout=0.01)
    except que.ResultTimeout:
        print("one of those who wait has given up")


async def main() -> None:
    async with app, app.worker():
        handle = report.submit(Report(pages=3))
        async with asyncio.TaskGroup() as group:
            group.create_task(show(handle))
            group.create_task(give_up(handle))
            print("done:", await handle)


asyncio.run(main())
