"""The README's table of capabilities, made from the drivers themselves; `--write` puts it there."""

import sys

from que.address import Address
from que.driver import open_driver
from que.testing.table import rows
from tests.docs.pages import README

BEGIN = "<!-- capabilities: python -m tests.docs.capability_table --write -->\n"
END = "<!-- end of capabilities -->"
SCHEMES = {
    "memory": "memory://",
    "sqlite": "sqlite:///jobs.db",
    "postgresql": "postgresql://",
    "gearman": "gearman://",
    "amqp": "amqp://",
    "redis": "redis://",
    "nats": "nats://",
}
MEANINGS = {
    "lease": "what holds a job for the worker that took it",
    "lease_seconds": "for how long, unless it is extended",
    "durable": "a job outlives the engine's process",
    "attempts": "`context.attempt` counts the runs",
    "results_pushed": "results come back to the one who submitted",
    "results_stored": "`result_ttl=`: results are found again, `app.handle(job, receipt)`",
    "delay": "`send(…, delay=, at=)`",
    "delayed_results": "`submit(…, delay=, at=)`",
    "unique": "`unique=`: equal keys are one job",
    "unique_scope": "for how long they are",
    "priorities": "`priority=`",
    "expiry": "`expires=`: a job that nobody took in time ends",
    "run_timeout": "`run_timeout=` of one call (that of a declaration works everywhere)",
    "progress": "`context.progress()`, `context.warn()`",
    "chunks": "`context.send_chunk()`",
    "cancel_queued": "`cancel()` of a job that waits",
    "cancel_running": "`cancel()` of a job that runs",
    "retry": "the engine waits between the runs of a job (else its worker does)",
    "dead_letters": "`app.dead_letters(job)`: what failed and nobody waited for",
    "headers": "`headers=`: facts travel beside the params, `context.headers`",
    "inspect": "`status()` of a job, `app.depths()`",
    "ticks": "the ticks of schedules are remembered, so that each is sent once (else `schedule_store=`)",
    "keeps": "results of other engines' jobs (`results=`) and the state of flows can be kept there",
    "total_rate": "`total_rate=`: a rate among all workers",
    "fifo": "jobs of one name and priority are handed out in the order of their submission",
    "max_payload": "bytes of params or of a result",
}


def table() -> str:
    """Return the table: a row for each capability, a column for each driver."""
    drivers = [dict(rows(open_driver(Address.parse(url)).capabilities)) for url in SCHEMES.values()]
    lines = ["| | | " + " | ".join(SCHEMES) + " |", "|---" * (len(SCHEMES) + 2) + "|"]
    for name in drivers[0]:
        cells = " | ".join(driver[name] for driver in drivers)
        lines.append(f"| {name} | {MEANINGS[name]} | {cells} |")
    return "\n".join(lines) + "\n"


def written(text: str) -> str:
    """Return `text` with the present table between its marks."""
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    return head + BEGIN + table() + END + tail


if __name__ == "__main__" and "--write" in sys.argv:
    README.write_text(written(README.read_text()))
