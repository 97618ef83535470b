"""One worker process of a scenario: `python -m que.testing.worker URL PREFIX LEDGER SLOTS [MODULE…]`.

It says "ready" once it works, stops on SIGTERM with what runs, and dies at once when its standard input ends: that is
when the process that started it is gone.
"""

import asyncio
import importlib
import os
import signal
import sys
from pathlib import Path

import que
from que.testing.ledger import Ledger
from que.testing.repertoire import repertoire


async def work(app: que.Que[None], slots: int) -> None:
    """Work until SIGTERM."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    loop.add_reader(sys.stdin.fileno(), os._exit, 1)
    async with app:
        worker = app.worker(concurrency=slots)
        async with worker:
            print("ready", flush=True)
            await stopped.wait()


def main() -> None:
    url, prefix, ledger, slots, *modules = sys.argv[1:]
    for module in modules:
        importlib.import_module(module)
    app = que.Que(url)
    repertoire(app, prefix, Ledger(Path(ledger)))
    asyncio.run(work(app, int(slots)))


if __name__ == "__main__":
    main()
