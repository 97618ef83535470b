"""The commands, as typer knows them; what each does is in a module of its own."""

import asyncio
import logging
import sys
from collections.abc import Coroutine
from typing import Annotated

import typer

from que.cli import demo as demo_module
from que.cli import worker as worker_module
from que.errors import QueError

commands: typer.Typer = typer.Typer(
    help="One typed interface to many job queues.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@commands.command()
def demo(url: Annotated[str, typer.Argument(help="The engine, like gearman://127.0.0.1:4730.")] = "memory://") -> None:
    """Run the echoReverse example, client and worker, and show its answer and its rate."""
    _run(demo_module.demo(url))


@commands.command()
def worker(
    app: Annotated[str, typer.Argument(help="Where the app is, like tasks:app.", metavar="MODULE:APP")],
    concurrency: Annotated[int, typer.Option("-c", "--concurrency", min=1, help="Jobs at once, per backend.")] = 100,
    processes: Annotated[int, typer.Option("-w", "--processes", min=1, help="Worker processes.")] = 1,
    grace: Annotated[float, typer.Option(min=0, help="Seconds for running jobs to end once stopped.")] = 30.0,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Log at level INFO.")] = False,
) -> None:
    """Work the jobs of an app until SIGTERM or SIGINT; a second signal cuts the grace short."""
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, stream=sys.stderr)
    if processes > 1:
        sys.exit(worker_module.supervise(processes, app, concurrency, grace, verbose))
    _run(worker_module.work(app, concurrency, grace))


def _run(work: Coroutine[object, object, None]) -> None:
    """Run `work`, on uvloop where it is installed; an error of ours is one line and exit status 1."""
    try:
        with asyncio.Runner(loop_factory=worker_module.loop_factory()) as runner:
            runner.run(work)
    except QueError as error:
        sys.exit(f"que: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
