"""The commands, as typer knows them; what each does is in a module of its own."""

import asyncio
import importlib.metadata
import logging
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from typing import Annotated, TypeVar

import typer

from que.app import Que
from que.cli import demo as demo_module
from que.cli import migrate as migrate_module
from que.cli import worker as worker_module
from que.cli.console import say
from que.cli.loading import load
from que.cli.reloading import python_files_change
from que.cli.supervisor import Lifeline, supervise
from que.errors import QueError

ResultT = TypeVar("ResultT")

_LOG_FORMAT = "%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"
# Eleven days: more than that is meant to be for ever, and timers count in 32 bits somewhere.
_LONGEST_GRACE_SECONDS = 1e6

commands: typer.Typer = typer.Typer(
    name="que",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        try:
            print(f"que {importlib.metadata.version('que-jobs')}")
        except importlib.metadata.PackageNotFoundError:
            print("que, of no known version: its distribution que-jobs is not installed")
        raise typer.Exit


@commands.callback()
def que(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """One typed interface to many job queues."""


@commands.command()
def demo(
    url: Annotated[str, typer.Argument(help="The engine, like gearman://127.0.0.1:4730.", metavar="URL")] = "memory://",
) -> None:
    """Run the echoReverse example and print its answer and its rate.

    Client and worker are this process. It takes about two seconds. On a server that others use it keeps to a job name
    of its own and leaves no job behind.
    """
    with _errors_in_a_line():
        # What a driver warns of before it gives up, the error says again.
        logging.basicConfig(level=logging.ERROR, format=_LOG_FORMAT)
        _run(demo_module.demo(url))


_App = Annotated[
    str,
    typer.Argument(
        metavar="MODULE:APP",
        help="The app and the module that holds it, like tasks:app; the working directory is searched first.",
    ),
]
_Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Log at level INFO, not WARNING.")]


_Concurrency = Annotated[
    int, typer.Option("-c", "--concurrency", min=1, metavar="SLOTS", help="Jobs at once per backend and process.")
]
_Processes = Annotated[int, typer.Option("-w", "--processes", min=1, metavar="PROCESSES", help="Worker processes.")]
_Children = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="CHILDREN",
        help='Processes for jobs with executor="process", per backend and worker process; one per processor.',
    ),
]
_Stall = Annotated[
    float | None,
    typer.Option(min=0.001, max=3600, metavar="SECONDS", help="Log each job that holds up the event loop for so long."),
]
_Grace = Annotated[
    float,
    typer.Option(
        min=0, max=_LONGEST_GRACE_SECONDS, metavar="SECONDS", help="How long what runs may take once stopped."
    ),
]
_MaxJobs = Annotated[
    int | None, typer.Option(min=1, metavar="JOBS", help="Replace a process that has ended so many jobs.")
]
_MaxMemory = Annotated[
    float | None, typer.Option(min=1, metavar="MIB", help="Replace a process that has more memory resident.")
]
_Burst = Annotated[bool, typer.Option("--burst", help="End after a second with nothing to do.")]
_Scheduler = Annotated[bool, typer.Option("--scheduler", help="Send what the app's schedules say, too.")]
_Reload = Annotated[
    bool, typer.Option("--reload", help="Start again when a Python file below the working directory changes.")
]


@commands.command()
def worker(
    app: _App,
    concurrency: _Concurrency = 100,
    processes: _Processes = 1,
    children: _Children = None,
    stall: _Stall = None,
    grace: _Grace = 30.0,
    max_jobs: _MaxJobs = None,
    max_memory: _MaxMemory = None,
    burst: _Burst = False,
    scheduler: _Scheduler = False,
    reload: _Reload = False,
    verbose: _Verbose = False,
) -> None:
    """Work the jobs of an app until SIGTERM or SIGINT.

    Then it takes no more jobs and lets the running ones end within the grace; what still runs is given back to the
    engine. A second signal gives back at once, a third ends without waiting for anything.

    The exit status is 0 after a stop, 1 after an error or when a job could be neither ended nor given back, 2 for bad
    options. With -w, --max-jobs, --max-memory or --reload the workers are processes of their own: one that dies is
    named, and started again, later each time; while none has ever worked, its end is the end, with its status (128 and
    the signal's number).
    """
    lifeline = Lifeline.take()
    with _errors_in_a_line():
        if lifeline is None and (processes > 1 or max_jobs or max_memory or reload):
            changes = python_files_change() if reload else None
            raise typer.Exit(asyncio.run(supervise(processes, grace, changes)))
        found = _load(app, verbose)
        if lifeline is not None:
            lifeline.follow()
        plan = worker_module.Plan(
            concurrency, children, grace, stall, max_jobs, max_memory, burst=burst, scheduler=scheduler
        )
        ready = (lambda: None) if lifeline is None else lifeline.say_ready
        raise typer.Exit(_run(worker_module.work(found, plan, ready)))


@commands.command()
def scheduler(app: _App, grace: _Grace = 30.0, verbose: _Verbose = False) -> None:
    """Send what the schedules of an app say, until SIGTERM or SIGINT.

    Any number of schedulers may run: each tick is sent once. The exit status is 0 after a stop, 1 after an error, 2 for
    bad options.
    """
    with _errors_in_a_line():
        raise typer.Exit(_run(worker_module.schedule(_load(app, verbose), grace)))


def _load(app: str, verbose: bool) -> Que[object]:
    """Return the app, and set up the logging after its import, so that one with a logging of its own is left alone."""
    found = load(app)
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format=_LOG_FORMAT)
    return found


@commands.command()
def migrate(
    url: Annotated[str, typer.Argument(help="The engine, like postgresql://que@127.0.0.1/jobs.", metavar="URL")],
) -> None:
    """Create what an engine needs, such as PostgreSQL's tables, or bring it up to date.

    It may be called at any time, by several at once; when all is up to date it does nothing.
    """
    with _errors_in_a_line():
        _run(migrate_module.migrate(url))


@contextmanager
def _errors_in_a_line() -> Generator[None]:
    """Say an error of ours in one line and exit with status 1."""
    try:
        yield
    except QueError as error:
        say(str(error))
        raise typer.Exit(1) from None


def _run(work: Coroutine[object, object, ResultT]) -> ResultT:
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(work)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """Return uvloop's factory where it is installed, else asyncio's."""
    try:
        import uvloop
    except ModuleNotFoundError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop
