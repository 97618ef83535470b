"""`que worker`: works an app's jobs in this process, or supervises several that do."""

import asyncio
import contextlib
import ctypes
import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import cast

from que.app import Que
from que.errors import ConfigurationError

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_PR_SET_PDEATHSIG = 1
_PARENT = "QUE_SUPERVISOR_PID"


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """Return uvloop's factory where it is installed, else asyncio's."""
    try:
        import uvloop
    except ModuleNotFoundError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


def load(target: str) -> Que[object]:
    """Return the app that `module:name` is; raises ConfigurationError that names what is wrong."""
    module_name, colon, name = target.partition(":")
    if not colon or not module_name or not name:
        raise ConfigurationError(f"{target!r} names no app: expected module:name, like tasks:app")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigurationError(f"cannot import {module_name!r}: {error}") from error
    except Exception as error:
        raise ConfigurationError(f"importing {module_name!r} failed: {type(error).__name__}: {error}") from error
    app: object = getattr(module, name, None)
    if app is None:
        raise ConfigurationError(f"module {module_name!r} has no {name!r}")
    if not isinstance(app, Que):
        raise ConfigurationError(f"{target} is a {type(app).__name__}, not a que.Que")
    return cast(Que[object], app)


async def work(target: str, concurrency: int, grace: float) -> None:
    """Work the app's jobs until a signal comes, then drain for at most `grace` seconds; a second signal cuts that."""
    app = load(target)
    worker = app.worker(concurrency=concurrency)
    loop = asyncio.get_running_loop()
    stops: list[asyncio.Task[None]] = []

    def stop(number: signal.Signals) -> None:
        allowed = 0.0 if stops else grace
        _say(f"{number.name}: " + ("releasing what runs" if stops else f"draining for at most {grace:g} s"))
        stops.append(loop.create_task(worker.stop(allowed)))

    for number in _SIGNALS:
        loop.add_signal_handler(number, stop, number)
    _end_with_parent()
    async with app:
        for address, names in worker.serves:
            _say(f"{os.getpid()} serves {', '.join(names)} with {concurrency} slots at {address}")
        await worker.run()
        await asyncio.gather(*stops)
    _say(f"{os.getpid()} has stopped")


def supervise(processes: int, target: str, concurrency: int, grace: float, verbose: bool) -> int:
    """Run `processes` workers and return an exit status once all have ended: 0 if all ended well.

    Signals are handed on. When one worker fails, the others are asked to stop. None outlives this process.
    """
    command = [sys.executable, "-m", "que", "worker", target, "-c", str(concurrency), "--grace", str(grace)]
    environment = {**os.environ, _PARENT: str(os.getpid())}
    children: dict[int, subprocess.Popen[bytes]] = {}

    def hand_on(number: int, frame: object) -> None:
        for child in children.values():
            with contextlib.suppress(ProcessLookupError):
                child.send_signal(number)

    with contextlib.ExitStack() as stack:
        for number in _SIGNALS:
            stack.callback(signal.signal, number, signal.signal(number, hand_on))
        for _ in range(processes):
            # A session of its own: the terminal's Ctrl-C comes once, through us.
            child = subprocess.Popen([*command, *(["-v"] if verbose else [])], start_new_session=True, env=environment)
            children[child.pid] = child
        status = 0
        while children:
            pid, wait_status = os.wait()
            if children.pop(pid, None) is None:
                continue
            code = os.waitstatus_to_exitcode(wait_status)
            if code and not status:
                _say(f"worker {pid} ended with status {code}; stopping the others")
                hand_on(signal.SIGTERM, None)
            status = status or abs(code)
        return status


def _end_with_parent() -> None:
    """Let SIGTERM come when the supervisor dies; at once if it has died already. Linux only."""
    parent = os.environ.get(_PARENT)
    if parent is None:
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):
        os.kill(os.getpid(), signal.SIGTERM)


def _say(text: str) -> None:
    print(f"que: {text}", file=sys.stderr, flush=True)
