"""Jobs in processes: what crosses, what is refused, and what becomes of the others when a process dies."""

import asyncio
import functools
import importlib
import multiprocessing
import os
import signal
import sys
import types
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest

import que
from que.job import ExecutorName
from tests.unit import process_handlers as handlers
from tests.unit.loops import in_loop, until
from tests.unit.process_handlers import Order

Next = Callable[[object], Awaitable[object]]
WAIT_SECONDS = 40.0


@asynccontextmanager
async def working(
    *functions: Callable[..., object],
    children: int = 1,
    app: que.Que[None] | None = None,
    retry: que.Retry | None = None,
    run_timeout: float | None = None,
    middleware: Sequence[que.Middleware[None]] = (),
) -> AsyncGenerator[que.Que[None], None]:
    """A worker, in `children` processes, of `functions` as jobs of their names."""
    app = app or que.Que("memory://")
    for each in functions:
        declare = app.job(
            each.__name__, executor="process", retry=retry, run_timeout=run_timeout, middleware=middleware
        )
        declare(cast(Callable[[Order], object], each))
    async with app, app.worker(children=children):
        yield app


async def result(app: que.Que[None], job: str, params: Order) -> object:
    return await app.submit(que.Job(job, Order, object), params).result(timeout=WAIT_SECONDS)


async def failure(app: que.Que[None], job: str, params: Order) -> que.JobFailed:
    with pytest.raises(que.JobFailed) as caught:
        await result(app, job, params)
    return caught.value


def children() -> int:
    return len(multiprocessing.active_children())


# What crosses


@in_loop
async def test_a_handler_runs_in_another_process_that_stays() -> None:
    async with working(handlers.echoes, handlers.tells_its_process) as app:
        assert await result(app, "echoes", Order("2pac")) == "cap2"
        pids = {await result(app, "tells_its_process", Order("")) for _ in range(3)}
        assert len(pids) == 1
        assert os.getpid() not in pids
    assert children() == 0


@in_loop
async def test_the_processes_are_there_before_the_first_job() -> None:
    async with working(handlers.echoes, children=2):
        assert children() == 2


@in_loop
async def test_a_decorated_handler_is_found_behind_its_job() -> None:
    app = que.Que("memory://")
    app.add(handlers.wrapped)
    async with app, app.worker(children=1):
        assert await handlers.wrapped.submit(Order("handler")) == "decorated handler"


ERRORS = [
    ("ValueError", "handler", "ValueError", "of mine"),
    ("Reject", "rejected", "Reject", "why"),
    ("SystemExit", "handler", "SystemExit", "3"),
    ("KeyboardInterrupt", "handler", "RuntimeError", "KeyboardInterrupt: "),
    ("StopIteration", "handler", "RuntimeError", "StopIteration: "),
    ("Unpicklable", "handler", "RuntimeError", "Unpicklable: with a lock"),
]


@in_loop
async def test_what_a_handler_raises_is_its_failure_and_the_process_goes_on() -> None:
    async with working(handlers.raises, handlers.tells_its_process) as app:
        before = await result(app, "tells_its_process", Order(""))
        for word, kind, type, message in ERRORS:
            failed = await failure(app, "raises", Order(word))
            assert (failed.kind, failed.type, failed.message) == (kind, type, message)
        assert await result(app, "tells_its_process", Order("")) == before


@in_loop
async def test_the_log_of_a_failure_holds_the_childs_traceback(caplog: pytest.LogCaptureFixture) -> None:
    async with working(handlers.raises) as app:
        await failure(app, "raises", Order("ValueError"))
    assert "In the child process:" in caplog.text
    assert 'process_handlers.py", line' in caplog.text


@in_loop
async def test_payloads_that_do_not_fit_are_told_apart() -> None:
    async with working(handlers.echoes, handlers.gives_another_type) as app:
        wrong = que.Job("echoes", dict[str, int], str)
        with pytest.raises(que.ParamsInvalid, match=r"params\.word: expected str, got int"):
            await app.submit(wrong, {"word": 3}).result(timeout=WAIT_SECONDS)
        with pytest.raises(que.ResultInvalid, match="result: expected str, got int"):
            await result(app, "gives_another_type", Order("three"))


@in_loop
async def test_a_context_in_a_process_tells_who_it_is_and_emits() -> None:
    async with working(handlers.tells_all, run_timeout=100.0) as app:
        handle = app.submit(que.Job("tells_all", Order, list[str]), Order(""))
        events = [event async for event in handle.events()]
        assert await handle == ["tells_all", handle.id, "1", "False", "False"]
    assert events == [que.Progress(1, 2), que.Warned("careful"), que.Chunk(b"part")]


@in_loop
async def test_headers_come_along_into_a_process() -> None:
    async with working(handlers.tells_its_headers) as app:
        job = que.Job("tells_its_headers", Order, dict[str, str])
        assert await app.submit(job, Order(""), headers={"tenant": "7"}) == {"tenant": "7"}


@pytest.mark.parametrize("attribute", ["state", "blocking"])
@in_loop
async def test_what_only_the_worker_has_is_refused_in_a_process(attribute: str) -> None:
    async with working(handlers.looks_at) as app:
        failed = await failure(app, "looks_at", Order(attribute))
    assert failed.type == "UnsupportedFeature"
    assert f'context.{attribute} where executor="process"' in failed.message


@in_loop
async def test_middleware_sees_and_changes_the_values_that_cross() -> None:
    async def shouts(context: que.Context, params: object, call_next: Next) -> object:
        assert isinstance(params, Order)
        return f"{await call_next(Order(params.word.upper()))}!"

    async with working(handlers.echoes, middleware=[shouts]) as app:
        assert await result(app, "echoes", Order("2pac")) == "CAP2!"


@in_loop
async def test_raw_bytes_cross_as_they_are() -> None:
    app = que.Que("memory://")
    job = app.add(que.Job("reverse", bytes, bytes, serializer=que.RAW, executor="process"))
    job.handler(handlers.reverses_bytes)
    async with app, app.worker(children=1):
        assert await job.submit(b"\x00\xff") == b"\xff\x00"


# What is refused


async def coroutine(order: Order) -> str:
    return order.word


class Object:
    def __call__(self, order: Order) -> str:
        return order.word


class Form(que.Model[Order, str]):
    async def process(self) -> str:
        return self.params.word


def nested() -> Callable[[Order], str]:
    def inside(order: Order) -> str:
        return order.word

    return inside


UNFIT = {
    "async def": (coroutine, "write it as a `def`"),
    "nested": (nested(), "move it there"),
    "object": (Object(), "put a `def` at module level around it"),
    "partial": (functools.partial(handlers.plain), "put a `def` at module level around it"),
}


@pytest.mark.parametrize(("handler", "way"), UNFIT.values(), ids=UNFIT)
def test_a_handler_that_no_process_can_import_is_refused_at_its_declaration(
    handler: Callable[[Order], str], way: str
) -> None:
    with pytest.raises(que.ConfigurationError, match=way):
        que.Que("memory://").job("unfit", executor="process")(handler)


def test_a_class_form_is_refused_at_its_declaration() -> None:
    with pytest.raises(que.ConfigurationError, match="executor="):
        types.new_class("Unfit", (Form,), {"job": "unfit", "executor": "process"})


def test_an_unknown_executor_is_refused() -> None:
    with pytest.raises(que.ConfigurationError, match="expected 'thread' or 'process'"):
        que.Job("unfit", Order, str, executor=cast(ExecutorName, "greenlet"))


def shadowed(order: Order) -> str:
    return order.word


hidden = shadowed


@functools.wraps(hidden)
def another(order: Order) -> str:
    return order.word


@in_loop
async def test_a_handler_that_is_not_under_its_own_name_is_refused_at_the_start() -> None:
    app = que.Que("memory://")
    app.job("hidden", executor="process")(another)
    async with app:
        with pytest.raises(que.ConfigurationError, match="another function than its handler"):
            await app.worker(children=1).run()
    assert children() == 0


@in_loop
async def test_a_module_that_only_the_worker_can_import_ends_the_worker_at_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only_here.py").write_text(
        "import multiprocessing\n"
        "if multiprocessing.parent_process(): raise LookupError('not in a child')\n"
        "def handler(params: int) -> int: return params\n"
    )
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    module = importlib.import_module("only_here")
    app = que.Que("memory://")
    app.add(job := que.Job("only_here", int, int, executor="process"))
    job.handler(cast(Callable[[int], int], module.handler))
    async with app:
        with pytest.raises(que.ConfigurationError, match="LookupError: not in a child"):
            await app.worker(children=1).run()
    del sys.modules["only_here"]
    assert children() == 0


# What ends before its time


@pytest.mark.parametrize(
    ("word", "how"), [("SIGKILL", "was killed by SIGKILL"), ("SIGSEGV", "was killed by SIGSEGV"), ("exit", "code 7")]
)
@in_loop
async def test_a_job_whose_process_dies_has_crashed_and_the_others_go_on(word: str, how: str, tmp_path: Path) -> None:
    async with working(handlers.dies, handlers.holds, handlers.echoes, children=2) as app:
        other = app.submit(que.Job("holds", Order, str), Order("unharmed", str(tmp_path)))
        await until(lambda: list(tmp_path.iterdir()), WAIT_SECONDS)
        failed = await failure(app, "dies", Order(word))
        assert (failed.kind, failed.type) == ("crashed", "WorkerLost")
        assert how in failed.message
        assert await result(app, "echoes", Order("2pac")) == "cap2"
        (tmp_path / "go").touch()
        assert await other == "unharmed"


@in_loop
async def test_a_job_whose_process_dies_is_retried_by_its_policy(tmp_path: Path) -> None:
    async with working(handlers.dies, retry=que.Retry(attempts=2, base=0.001)) as app:
        assert await result(app, "dies", Order("SIGKILL", str(tmp_path))) == "alive"
    assert len(pids_of(tmp_path)) == 1


@in_loop
async def test_a_process_that_left_one_of_its_own_behind_is_found_dead() -> None:
    async with working(handlers.forks_and_dies) as app:
        assert (await failure(app, "forks_and_dies", Order(""))).kind == "crashed"


@in_loop
async def test_a_process_that_died_while_it_was_idle_costs_no_job() -> None:
    async with working(handlers.tells_its_process) as app:
        pid = await result(app, "tells_its_process", Order(""))
        assert isinstance(pid, int)
        os.kill(pid, signal.SIGKILL)
        await until(lambda: children() == 0, WAIT_SECONDS)
        assert await result(app, "tells_its_process", Order("")) != pid


@in_loop
async def test_a_run_over_time_ends_its_process_and_the_next_job_has_another(tmp_path: Path) -> None:
    async with working(handlers.holds, run_timeout=0.5) as app:
        with pytest.raises(que.JobTimeout):
            await result(app, "holds", Order("long", str(tmp_path)))
        (tmp_path / "go").touch()
        assert await result(app, "holds", Order("short", str(tmp_path))) == "short"
        assert len(set(pids_in(tmp_path))) == 2


@in_loop
async def test_a_cancelled_job_ends_its_process(tmp_path: Path) -> None:
    async with working(handlers.holds) as app:
        handle = app.submit(que.Job("holds", Order, str), Order("long", str(tmp_path)))
        await until(lambda: list(tmp_path.iterdir()), WAIT_SECONDS)
        [pid] = pids_in(tmp_path)
        assert await handle.cancel()
        with pytest.raises(que.JobCancelled):
            await handle
        await until(lambda: not is_alive(pid), WAIT_SECONDS)


@in_loop
async def test_a_stop_lets_a_job_end_within_the_grace_and_then_gives_it_back(tmp_path: Path) -> None:
    app = que.Que("memory://")
    holds = app.job("holds", executor="process")(handlers.holds)
    async with app:
        async with app.worker(children=1) as worker:
            patient = holds.submit(Order("patient", str(tmp_path)))
            await until(lambda: list(tmp_path.iterdir()), WAIT_SECONDS)
            stopping = asyncio.create_task(worker.stop(WAIT_SECONDS))
            (tmp_path / "go").touch()
            await stopping
            assert await patient == "patient"
        (tmp_path / "go").unlink()
        async with app.worker(children=1) as worker:
            released = holds.submit(Order("released", str(tmp_path)))
            await until(lambda: len(list(tmp_path.iterdir())) == 2, WAIT_SECONDS)
            await worker.stop(grace=0)
            assert children() == 0
        (tmp_path / "go").touch()
        async with app.worker(children=1):
            assert await released == "released"


def pids_in(folder: Path) -> list[int]:
    return [int(path.name.partition("-")[2]) for path in folder.iterdir() if "-" in path.name]


def pids_of(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


ROOT = Path(__file__).parents[2]
KILLED = """
import asyncio, sys
import que
from tests.unit import process_handlers as handlers

async def main():
    app = que.Que("memory://")
    holds = app.job("holds", executor="process")(handlers.holds)
    async with app, app.worker(children=2):
        await holds.submit(handlers.Order("busy", sys.argv[1]))

if __name__ == "__main__":
    asyncio.run(main())
"""


@in_loop
async def test_processes_end_with_a_worker_that_is_killed(tmp_path: Path) -> None:
    program, folder = tmp_path / "program.py", tmp_path / "told"
    program.write_text(KILLED)
    folder.mkdir()
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    worker = await asyncio.create_subprocess_exec(
        sys.executable, str(program), str(folder), env={**os.environ, "PYTHONPATH": paths}
    )
    await until(lambda: list(folder.iterdir()), WAIT_SECONDS)
    pids = children_of(worker.pid)
    assert len(pids) >= 2
    worker.kill()
    await worker.wait()
    await until(lambda: not any(is_alive(pid) for pid in pids), WAIT_SECONDS)


def children_of(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()] + [
        int(each)
        for task in Path(f"/proc/{pid}/task").iterdir()
        if task.name != str(pid)
        for each in (task / "children").read_text().split()
    ]


# What it does for the engine


@in_loop
async def test_work_in_a_process_never_stops_the_renewal_of_a_lease(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'jobs.db'}?lease=0.4"
    taken: list[Order] = []

    def takes(order: Order) -> int:
        taken.append(order)
        return 2

    app, other = que.Que(url), que.Que(url)
    spins = app.job("spins", executor="process")(handlers.spins)
    other.job("spins")(takes)
    async with app, other, app.worker(children=1) as worker:
        handle = spins.submit(Order("1.5"))
        await until(lambda: worker.running, WAIT_SECONDS)
        async with other.worker():
            assert await handle.result(timeout=WAIT_SECONDS) == 1
    assert taken == []
