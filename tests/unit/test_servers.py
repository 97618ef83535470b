"""The private servers of tests/servers.py: none outlives its run, and a restart keeps the port."""

import os
import select
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

from tests.servers import Gearmand, StartGearmand, end, free_port, spawn, wait_until

ROOT = Path(__file__).parents[2]


def is_alive(pid: int) -> bool:
    """Return whether the process runs; one that ended and was not waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_restarted_server_answers_on_its_port_with_its_options(own_gearmand: StartGearmand) -> None:
    server = own_gearmand("--job-retries=2")
    port, first = server.port, server.pid
    server.kill()
    server.restart()
    assert server.port == port
    assert server.pid != first
    assert "--job-retries=2" in Path(f"/proc/{server.pid}/cmdline").read_text()


def test_a_server_survives_the_thread_that_restarted_it(own_gearmand: StartGearmand) -> None:
    server = own_gearmand()
    thread = threading.Thread(target=server.restart)
    thread.start()
    thread.join()
    with socket.create_connection(server.address, timeout=10) as connection:
        connection.sendall(b"getpid\n")
        assert connection.recv(64) == f"OK {server.pid}\n".encode()


def test_two_servers_never_share_a_port(gearmand: Gearmand, own_gearmand: StartGearmand) -> None:
    assert len({gearmand.port, own_gearmand().port, own_gearmand().port}) == 3


def test_a_server_dies_with_the_process_that_started_it_even_by_sigkill() -> None:
    program = "from tests.servers import Gearmand; s = Gearmand.start(); print(s.pid, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_alive(pid)
        os.kill(parent.pid, signal.SIGKILL)
        wait_until(lambda: not is_alive(pid), "the orphaned gearmand ends")


def test_a_program_that_stands_still_is_ended_without_sigkill() -> None:
    process = spawn(
        [sys.executable, "-S", "-c", "print(flush=True); input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGSTOP)
    assert end(process, seconds=20) == -signal.SIGTERM
    process.communicate()


def test_a_stopped_server_answers_nobody_until_it_goes_on(own_gearmand: StartGearmand) -> None:
    server = own_gearmand()
    with socket.create_connection(server.address, timeout=10) as connection:
        with server.stopped():
            connection.sendall(b"version\n")
            assert not select.select([connection], [], [], 0.1)[0]
        assert connection.recv(64).startswith(b"OK ")


def test_a_program_that_ignores_sigterm_is_ended_all_the_same() -> None:
    read, write = os.pipe()
    with os.fdopen(write, "wb") as output:
        process = spawn(["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done"], stdout=output)
    with os.fdopen(read, "rb") as input_:
        assert input_.readline() == b"ready\n"
        assert end(process, seconds=0.2) == -signal.SIGKILL


def test_a_free_port_lies_below_those_of_outgoing_connections() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        outgoing = probe.getsockname()[1]
    assert free_port() < outgoing
