"""The blocking face across a process's life: Ctrl-C, fork, and an exit that leaves no `with` block."""

import subprocess
import sys
import textwrap

import pytest

PROCESS_SECONDS = 60.0

# The alarm ends the process where a hang would be. Not faulthandler's timer: a forked child waits for it at exit.
PREAMBLE = """
import atexit, faulthandler, os, signal, sys, threading, time
atexit.register(lambda: print("threads:", [each.name for each in threading.enumerate() if each.name != "MainThread"]))
import que
# A run in a shell's background inherits that Ctrl-C is ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
faulthandler.register(signal.SIGALRM, chain=True)
signal.alarm(40)

app = que.Que("memory://")
nobody = app.add(que.Job("nobody", int, int))

@app.job("double")
async def double(params: int) -> int:
    return 2 * params

@app.job("sleep")
def sleep(params: float) -> None:
    time.sleep(params)

@app.job("nested")
def nested(params: int, context: que.Context) -> int:
    return context.blocking.submit(nobody, params).result()

def interrupt_once(condition):
    def watch():
        while not condition():
            time.sleep(0.002)
        os.kill(os.getpid(), signal.SIGINT)
    threading.Thread(target=watch, daemon=True).start()
"""


def run(script: str) -> list[str]:
    """Return what `script` printed; it must exit with code 0 in time."""
    program = PREAMBLE + textwrap.dedent(script)
    command = [sys.executable, "-W", "ignore", "-c", program]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=PROCESS_SECONDS)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout.splitlines()


INTERRUPTED = {
    "result": "handle.result()",
    "result with a timeout": "handle.result(timeout=1000)",
    "events": "list(handle.events())",
    "map": "list(q.map(nobody, [1, 2, 3]))",
    "work": "q.work()",
    "worker": "q.worker().run()",
}


@pytest.mark.parametrize("call", INTERRUPTED)
def test_ctrl_c_ends_a_wait_and_leaves_everything_usable(call: str) -> None:
    printed = run(f"""
        with app.blocking() as q:
            handle = q.submit(nobody, 1)
            handle.accepted()
            interrupt_once(lambda: q._portal._waiters)
            try:
                {INTERRUPTED[call]}
            except KeyboardInterrupt:
                print("interrupted")
            with q.worker():
                print(q.submit(double, 21).result(timeout=20), handle.done)
    """)
    assert printed[:2] == ["interrupted", "42 False"]
    assert printed[-1] == "threads: []"


def test_ctrl_c_in_one_thread_leaves_the_waits_of_others_alone() -> None:
    printed = run("""
        answers = []
        with app.blocking() as q:
            handle = q.submit(double, 21)
            other = threading.Thread(target=lambda: answers.append(handle.result(timeout=20)))
            other.start()
            interrupt_once(lambda: len(q._portal._waiters) == 2)
            try:
                handle.result()
            except KeyboardInterrupt:
                print("interrupted")
            with q.worker():
                other.join()
        print(answers)
    """)
    assert printed == ["interrupted", "[42]", "threads: []"]


def test_ctrl_c_stops_the_work_and_its_handlers_threads_even_outside_of_a_with_block() -> None:
    printed = run("""
        q = app.blocking()
        q.connect()
        handle = q.submit(nested, 1)
        interrupt_once(lambda: any(each.name.startswith("que-job") for each in threading.enumerate()))
        try:
            q.work(concurrency=1)
        except KeyboardInterrupt:
            print("interrupted")
    """)
    assert printed == ["interrupted", "threads: []"]


def test_a_second_ctrl_c_leaves_an_engine_that_does_not_let_go() -> None:
    printed = run("""
        from que.drivers.memory import MemoryDriver
        async def stuck(self):
            interrupt_once(lambda: True)
            import asyncio
            await asyncio.Event().wait()
        MemoryDriver.disconnect = stuck
        try:
            with app.blocking() as q:
                pass
        except KeyboardInterrupt:
            print("interrupted")
    """)
    assert printed[0] == "interrupted"


def test_an_exit_without_leaving_the_with_block_closes_the_app_and_joins_its_thread() -> None:
    printed = run("""
        q = app.blocking()
        q.connect()
        q.worker().__enter__()
        print(q.submit(double, 21).result(timeout=20))
        pending = [q.submit(nobody, number) for number in range(10)]
    """)
    assert printed == ["42", "threads: []"]


def test_an_exit_lets_what_waits_unsent_leave_first() -> None:
    printed = run("""
        from que.drivers.memory import MemoryDriver
        submit = MemoryDriver.submit
        async def counted(self, envelopes):
            await submit(self, envelopes)
            print("left:", len(envelopes))
        MemoryDriver.submit = counted
        q = app.blocking()
        q.connect()
        gate = threading.Event()
        q._portal.post(gate.wait)
        sendings = [q.send(nobody, number) for number in range(10)]
        gate.set()
    """)
    assert printed == ["left: 10", "threads: []"]


def test_an_exit_while_other_threads_still_submit_lets_them_finish_first() -> None:
    printed = run("""
        q = app.blocking()
        q.connect()
        q.worker().__enter__()
        def go():
            total = sum(q.submit(double, number).result(timeout=20) for number in range(100))
            sys.stdout.write(f"{total}\\n")  # one write: print() makes two, and threads would mingle them
        for _ in range(3):
            threading.Thread(target=go).start()
    """)
    assert printed == ["9900"] * 3 + ["threads: []"]


def test_an_exit_while_a_daemon_thread_waits_does_not_hang() -> None:
    printed = run("""
        q = app.blocking()
        q.connect()
        handle = q.submit(nobody, 1)
        threading.Thread(target=handle.result, daemon=True).start()
        while not q._portal._waiters:
            time.sleep(0.002)
        threading.excepthook = lambda _: None
    """)
    assert "que-blocking" not in printed[-1]


CHILD = """
        def in_child(body):
            pid = os.fork()
            if pid == 0:
                signal.alarm(20)
                try:
                    body()
                except BaseException as error:
                    print("child:", repr(error))
                    sys.stdout.flush()
                    os._exit(1)
                sys.stdout.flush()
                os._exit(0)
            _, status = os.waitpid(pid, 0)
            print("child ended:", os.waitstatus_to_exitcode(status))
            sys.stdout.flush()

        def refused(call, *args):
            try:
                call(*args)
            except que.NotConnected:
                return True
            raise AssertionError(call)
"""


def test_a_forked_child_gets_not_connected_at_every_call_and_handle_and_its_parent_goes_on() -> None:
    printed = run(
        CHILD
        + """
        with app.blocking() as q, q.worker():
            handle = q.submit(nobody, 1)
            receipt = handle.accepted()
            done = q.submit(double, 4)
            done.result(timeout=20)
            def child():
                calls = [
                    (q.submit, double, 1), (q.send, double, 1), (q.submit_many, double, [1]), (q.map, double, [1]),
                    (q.send_many, double, [1]), (q.drain,), (q.status, receipt), (q.cancel, receipt), (q.work,),
                    (q.worker,), (handle.result,), (handle.result, 1), (handle.cancel,), (handle.status,),
                    (handle.events,),
                ]
                assert all(refused(*call) for call in calls)
                assert done.result() == 8
                q.disconnect()
            in_child(child)
            print(q.submit(double, 21).result(timeout=20), handle.status().known)
    """
    )
    assert printed == ["child ended: 0", "42 True", "threads: []"]


def test_a_forked_child_opens_a_face_of_its_own() -> None:
    printed = run(
        CHILD
        + """
        with app.blocking() as q, q.worker():
            q.submit(double, 1).result(timeout=20)
            def child():
                with app.blocking() as mine, mine.worker():
                    assert mine.submit(double, 21).result(timeout=10) == 42
                q.connect()
                with q.worker():
                    assert q.submit(double, 21).result(timeout=10) == 42
                q.disconnect()
            in_child(child)
            print(q.submit(double, 4).result(timeout=20))
    """
    )
    assert printed == ["child ended: 0", "8", "threads: []"]


def test_a_forked_child_starts_without_its_parents_jobs() -> None:
    printed = run(
        CHILD
        + """
        @app.job("mark")
        async def mark(params: int) -> None:
            print("marked by", "the parent" if os.getpid() == parent else "the child")
        parent = os.getpid()
        with app.blocking() as q:
            handle = q.submit(mark, 1)
            handle.accepted()
            def child():
                with app.blocking() as mine, mine.worker():
                    mine.submit(double, 21).result(timeout=10)
            in_child(child)
            with q.worker():
                handle.result(timeout=20)
    """
    )
    assert printed == ["child ended: 0", "marked by the parent", "threads: []"]


def test_a_forked_child_of_a_running_loop_finds_its_app_unconnected() -> None:
    printed = run(
        CHILD
        + """
        import asyncio
        async def main():
            async with app, app.worker():
                def child():
                    assert refused(double.submit, 1)
                    with app.blocking() as mine, mine.worker():
                        assert mine.submit(double, 21).result(timeout=10) == 42
                in_child(lambda: threading_run(child))
                print(await double.submit(4))
        def threading_run(body):
            errors = []
            def go():
                try:
                    body()
                except BaseException as error:
                    errors.append(error)
            thread = threading.Thread(target=go)
            thread.start()
            thread.join()
            assert not errors, errors
        asyncio.run(main())
    """
    )
    assert printed == ["child ended: 0", "8", "threads: []"]


def test_forks_amid_the_traffic_of_other_threads_never_hang() -> None:
    """A fork may come while another thread holds any lock of ours."""
    printed = run(
        CHILD
        + """
        with app.blocking() as q, q.worker():
            running = True
            def hammer():
                while running:
                    [each.result(timeout=20) for each in [q.submit(double, 1) for _ in range(20)]]
            threads = [threading.Thread(target=hammer) for _ in range(4)]
            [each.start() for each in threads]
            def child():
                assert refused(q.submit, double, 1)
                with app.blocking() as mine, mine.worker():
                    assert mine.submit(double, 21).result(timeout=10) == 42
            for _ in range(25):
                in_child(child)
            running = False
            [each.join() for each in threads]
    """
    )
    assert printed == ["child ended: 0"] * 25 + ["threads: []"]


def test_a_child_that_falls_out_of_its_parents_with_block_exits() -> None:
    printed = run("""
        sys.stdout.reconfigure(line_buffering=True)
        with app.blocking() as q, q.worker():
            pid = os.fork()
            signal.alarm(20)
            if pid:
                _, status = os.waitpid(pid, 0)
                print("child ended:", os.waitstatus_to_exitcode(status))
        print("out")
    """)
    assert sorted(printed) == sorted(["out", "threads: []", "child ended: 0", "out", "threads: []"])
